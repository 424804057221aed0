// Redundant mprotect calls from a function of a module, and from a method of a trait.
use std::ffi::{c_int, c_void};

extern "C" {
    fn mmap(at: *mut c_void, size: usize, prot: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
    fn mprotect(at: *mut c_void, size: usize, prot: c_int) -> c_int;
}

const PAGE: usize = 4096;
const READ: c_int = 1;
const RW: c_int = 3;

fn map(pages: usize) -> *mut c_void {
    // MAP_PRIVATE | MAP_ANONYMOUS
    unsafe { mmap(std::ptr::null_mut(), pages * PAGE, RW, 0x22, -1, 0) }
}

mod pool {
    use super::*;

    #[inline(never)]
    pub fn refill(at: *mut c_void, prot: c_int) {
        assert_eq!(unsafe { mprotect(at, 2 * PAGE, prot) }, 0);
    }
}

trait Seal {
    fn seal(&self, prot: c_int);
}

struct Arena(*mut c_void);

impl Seal for Arena {
    #[inline(never)]
    fn seal(&self, prot: c_int) {
        assert_eq!(unsafe { mprotect(self.0, PAGE, prot) }, 0);
    }
}

fn main() {
    let at = map(2);
    let arena = Arena(map(1));
    for _ in 0..13 {
        pool::refill(at, RW);
    }
    pool::refill(at, READ);
    for _ in 0..6 {
        arena.seal(RW);
    }
    arena.seal(READ);
    arena.seal(RW);
}
