"""Stacks: where in a program a call was made. Unwinding at run time, symbols at report time.

At run time one `Modules` serves all processes, and one `Space` serves each address space;
`Space.walk` returns a stack as the numbers of its frames, which `Modules.tables` explains:

    modules = Modules()
    space = Space(pid, modules)
    stack = modules.tables.stacks.number(space.walk(tid, registers.words))

Modules, frames and stacks are numbered in the order in which they first occur, and never change, so
a trace may record them as they occur. At report time a `Symbolizer` finds the name of a module's
frame. Nothing that is read at run time needs pyelftools.
"""
