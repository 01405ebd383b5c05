// The transforms of Winograd's minimal filtering F(4x4, 3x3): a tile of 6x6 pixels gives 4x4 results of a 3x3 filter
// with 36 multiplications instead of 144.
//
// Interpolation points 0, +-5/8, +-3/2 and infinity. Their powers are exact in float32, and rounding errors are half of
// those of the usual 0, +-1, +-2.
#pragma once
#include "vector.h"

namespace winograd {

constexpr int TILE = 6, STEP = 4, POINTS = TILE * TILE;  // sides of a tile before and after, products per tile

namespace point {
constexpr float a = 5.0f / 8, a2 = a * a, a3 = a * a2, b = 3.0f / 2, b2 = b * b, b3 = b * b2;
constexpr float sum = a2 + b2, product = a2 * b2;
// The scales of the filter's transform: 1 over the product of a point's distances from the others.
constexpr float at_zero = 1 / (a2 * b2), at_a = 1 / (2 * a2 * (a2 - b2)), at_b = 1 / (2 * b2 * (b2 - a2));
}  // namespace point

// Six samples to their values at the points.
template <class V>
LMF_INLINE void spread(const V (&d)[TILE], V (&v)[TILE]) {
    using namespace point;
    const V even_a = d[4] - b2 * d[2], odd_a = a * (d[3] - b2 * d[1]);
    const V even_b = d[4] - a2 * d[2], odd_b = b * (d[3] - a2 * d[1]);
    v[0] = product * d[0] + (d[4] - sum * d[2]);
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = product * d[1] + (d[5] - sum * d[3]);
}

// Products at the points to four results.
template <class V>
LMF_INLINE void gather(const V (&m)[TILE], V (&y)[STEP]) {
    using namespace point;
    const V even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + even_a + even_b;
    y[1] = a * odd_a + b * odd_b;
    y[2] = a2 * even_a + b2 * even_b;
    y[3] = a3 * odd_a + (b3 * odd_b + m[5]);
}

// The transpose of `gather`: gradients of four results to those of the products.
template <class V>
LMF_INLINE void scatter(const V (&y)[STEP], V (&m)[TILE]) {
    using namespace point;
    const V even_a = y[0] + a2 * y[2], odd_a = a * y[1] + a3 * y[3];
    const V even_b = y[0] + b2 * y[2], odd_b = b * y[1] + b3 * y[3];
    m[0] = y[0];
    m[1] = even_a + odd_a;
    m[2] = even_a - odd_a;
    m[3] = even_b + odd_b;
    m[4] = even_b - odd_b;
    m[5] = y[3];
}

// Three weights to their values at the points.
template <class V>
LMF_INLINE void filter(const V (&g)[3], V (&u)[TILE]) {
    using namespace point;
    const V even_a = at_a * (g[0] + a2 * g[2]), odd_a = (at_a * a) * g[1];
    const V even_b = at_b * (g[0] + b2 * g[2]), odd_b = (at_b * b) * g[1];
    u[0] = at_zero * g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[2];
}

// The transpose of `filter`.
template <class V>
LMF_INLINE void unfilter(const V (&u)[TILE], V (&g)[3]) {
    using namespace point;
    const V even_a = at_a * (u[1] + u[2]), even_b = at_b * (u[3] + u[4]);
    g[0] = at_zero * u[0] + even_a + even_b;
    g[1] = (at_a * a) * (u[1] - u[2]) + (at_b * b) * (u[3] - u[4]);
    g[2] = a2 * even_a + b2 * even_b + u[5];
}

}  // namespace winograd
