// Redundant mprotect calls from a template's method, and from an operator in an unnamed namespace.
#include <cstdlib>
#include <sys/mman.h>

#define OPAQUE __attribute__((noinline, noipa))
constexpr long page = 4096;
constexpr int rw = PROT_READ | PROT_WRITE;

static void *map(long pages)
{
    void *at = mmap(nullptr, pages * page, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        std::abort();
    return at;
}

namespace pool {
template <typename Unit, int Pages> struct Arena {
    Unit *at = static_cast<Unit *>(map(Pages));
    OPAQUE void refill(int prot)
    {
        if (mprotect(at, Pages * page, prot))
            std::abort();
    }
};
} // namespace pool

namespace {
struct Guard {
    void *at;
    OPAQUE Guard &operator<<=(int prot)
    {
        if (mprotect(at, page, prot))
            std::abort();
        return *this;
    }
};
} // namespace

int main()
{
    pool::Arena<unsigned long, 3> large;
    pool::Arena<char, 1> little;
    Guard guard{map(1)};
    for (int i = 0; i < 12; i++)
        large.refill(rw);
    large.refill(PROT_READ);
    for (int i = 0; i < 7; i++)
        little.refill(rw);
    for (int i = 0; i < 5; i++)
        guard <<= rw;
    guard <<= PROT_READ;
    guard <<= rw;
    return 0;
}
