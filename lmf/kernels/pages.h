// Memory in large pages: first touching a picture page by page takes longer than enlarging it.
#pragma once
#include <cstdint>
#ifdef __linux__
#include <sys/mman.h>
#endif

// Asks for them where `bytes` from `p` on have not been touched yet. Where the system has none to give nothing changes.
inline void large_pages(const void* p, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 2 << 20, start = (uintptr_t)p, from = (start + page - 1) & ~(page - 1);
    const uintptr_t to = (start + bytes) & ~(page - 1);
    if (from < to) madvise((void*)from, to - from, MADV_HUGEPAGE);
#endif
}
