"""Stacks: where in a program a call was made. Unwinding at run time, symbols at report time.

At run time one `Modules` serves all processes and one `Space` each address space; `Space.walk`
gives a stack as numbers of frames, which `Modules.tables` explains:

    modules = Modules()
    space = Space(pid, modules)
    stack = modules.tables.stacks.number(space.walk(tid, registers.words))

Modules, frames and stacks are numbered as they first come and never change, so that a trace may
take them as they come. At report time a `Symbolizer` says what a frame of a module is. Nothing that
is read at run time needs pyelftools.
"""
