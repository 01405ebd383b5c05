// Where a coordinate lies among the latents.
#pragma once
#include <cmath>
#include <cstdint>

template <class T>
struct Place {  // the two latents around a coordinate on one axis
    int64_t index[2];
    T rel[2];
};

// Operation for operation what grid.ensemble computes: products and sums must round apart, or ties fall differently.
#ifdef __clang__
#define LMF_EXACT __attribute__((noinline))
#else
#define LMF_EXACT __attribute__((noinline, optimize("fp-contract=off")))
#endif
template <class T>
LMF_EXACT Place<T> locate(T c, int64_t cells) {
#ifdef __clang__
#pragma clang fp contract(off)
#endif
    Place<T> place;
    const T n = T(cells), last = n - 1, bound = T(1 - 1e-6);
    for (int side = 0; side < 2; side++) {
        T s = c + T((side ? 1.0 : -1.0) / cells + 1e-6);
        s = s < -bound ? -bound : s > bound ? bound : s;
        const T scaled = (s + 1) * n;
        const T i = std::nearbyint((scaled - 1) / 2);
        const T index = i > 0 ? (i < last ? i : last) : T(0);  // NaN too lands on a latent
        const float step = float(index) * float(2.0 / cells);
        const float centre = step + float(-1 + 1.0 / cells);
        place.index[side] = int64_t(index);
        place.rel[side] = (c - T(centre)) * n;
    }
    return place;
}
