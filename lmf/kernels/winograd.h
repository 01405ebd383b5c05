// 3x3 convolutions of channels-last maps by F(4x4, 3x3), with what follows them: bias, ReLU, scale and skip connection.
//
// Threads take blocks of tiles. A block is small enough that its tiles stay in the second-level cache from the
// transform of the input over the 36 matrix products to the transform back. A result depends on neither blocks nor
// threads, only on where its pixel lies in its tile; tiles start at multiples of four pixels.
#pragma once
#include <algorithm>
#include <memory>
#include <new>

#include "transform.h"

namespace winograd {

constexpr int N = REGISTER / sizeof(float);
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int WIDE = 4, ROWS_AT_ONCE = 48;  // vectors in a panel of weights; a multiple of all numbers of rows per step
#else
constexpr int WIDE = 2, ROWS_AT_ONCE = 12;
#endif
constexpr int64_t PANEL = WIDE * N, DEEP = 128;  // output and input channels that the products take at a time
using L = Lanes<float, N>;
using V = L::V;

// How many rows of W vectors keep the multiply-add units busy without spilling.
template <int W>
constexpr int product_rows() {
    constexpr int rows = (WIDE == 4 ? 24 : 12) / W;
    return rows > 16 ? 16 : rows;
}

// One convolution with padding 1. Maps are (batch, height, width, channels); the channels of a pixel are contiguous,
// and pixels have even distances, so that a map may be some channels of a larger one.
struct Convolution {
    int64_t batch, height, width, in, out;
    int64_t x_stride, y_stride, skip_stride;  // numbers from one pixel to the next
    int64_t relu;
    int64_t weight_out, weight_in, weight_row, weight_column;  // strides of the weight
    double scale;                           // of the result, after the ReLU and before the skip connection
    const float *x, *weight, *bias, *skip;  // weight: (out, in, 3, 3); bias and skip may be null
    float* y;

    int64_t rows() const { return (height + STEP - 1) / STEP; }
    int64_t columns() const { return (width + STEP - 1) / STEP; }
    int64_t tiles() const { return batch * rows() * columns(); }
};

LMF_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// N lanes, or with PART the first `count` of them and zeros.
template <bool PART>
LMF_INLINE V load(const float* p, int64_t count) {
    if (!PART) return L::load(p);
    float lanes[N] = {};
    std::memcpy(lanes, p, count * sizeof(float));
    return L::load(lanes);
}

template <bool PART>
LMF_INLINE void store(float* p, V v, int64_t count) {
    if (!PART) return L::store(p, v);
    float lanes[N];
    L::store(lanes, v);
    std::memcpy(p, lanes, count * sizeof(float));
}

struct Free {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t(64)); }
};
using Memory = std::unique_ptr<float[], Free>;
inline Memory allocate(int64_t count) {
    return Memory(static_cast<float*>(::operator new[](count * sizeof(float), std::align_val_t(64))));
}

// Where a tile of a map lies.
struct Tile {
    int64_t image, top, left;  // of its 4x4 results
    Tile(const Convolution& c, int64_t number)
        : image(number / (c.rows() * c.columns())), top(number / c.columns() % c.rows() * STEP),
          left(number % c.columns() * STEP) {}
};

// Transforms tiles of 6x6 pixels around the 4x4 of each tile: v[point * plane + tile * row + k], k < count.
struct Spread {
    const float* x;
    int64_t height, width, stride;
    const float* zeros;  // what lies outside the map

    void operator()(const Tile& tile, int64_t count, float* v, int64_t plane) const {
        const float* at[POINTS];
        for (int i = 0; i < POINTS; i++) {
            const int64_t y = tile.top - 1 + i / TILE, column = tile.left - 1 + i % TILE;
            const bool inside = y >= 0 && y < height && column >= 0 && column < width;
            at[i] = inside ? x + ((tile.image * height + y) * width + column) * stride : zeros;
        }
        int64_t k = 0;
        for (; k + N <= count; k += N) lanes<false>(at, k, N, v + k, plane);
        if (k < count) lanes<true>(at, k, count - k, v + k, plane);
    }

    template <bool PART>
    static LMF_INLINE void lanes(const float* const (&at)[POINTS], int64_t k, int64_t count, float* v, int64_t plane) {
        V between[TILE][TILE];
        for (int column = 0; column < TILE; column++) {
            V d[TILE], s[TILE];
            LMF_UNROLL for (int i = 0; i < TILE; i++) d[i] = load<PART>(at[i * TILE + column] + k, count);
            spread(d, s);
            LMF_UNROLL for (int i = 0; i < TILE; i++) between[i][column] = s[i];
        }
        for (int i = 0; i < TILE; i++) {
            V s[TILE];
            spread(between[i], s);
            LMF_UNROLL for (int j = 0; j < TILE; j++) L::store(v + (i * TILE + j) * plane, s[j]);
        }
    }
};

// m (rows, W N) = or += v (rows, depth) weight (depth, W N)
template <int W>
void product(const float* v, int64_t v_row, const float* weight, int64_t depth, float* m, int64_t m_row, int64_t rows,
             bool more) {
    constexpr int R = product_rows<W>();
    for (int64_t r = 0; r < rows; r += R) {
        Block<float, W * N, R> block;
        if (more) {
            LMF_UNROLL for (int i = 0; i < R; i++)
                LMF_UNROLL for (int j = 0; j < W; j++) block.at[i][j] = L::load(m + (r + i) * m_row + j * N);
        } else
            block.zero();
        block.multiply(v + r * v_row, int(v_row), 1, weight, W * N, int(depth));
        LMF_UNROLL for (int i = 0; i < R; i++)
            LMF_UNROLL for (int j = 0; j < W; j++) L::store(m + (r + i) * m_row + j * N, block.at[i][j]);
    }
}

inline void product(int64_t wide, const float* v, int64_t v_row, const float* weight, int64_t depth, float* m,
                    int64_t m_row, int64_t rows, bool more) {
    switch (wide) {
        case 1: return product<1>(v, v_row, weight, depth, m, m_row, rows, more);
        case 2: return product<2>(v, v_row, weight, depth, m, m_row, rows, more);
#if defined(__AVX512F__) || defined(__aarch64__)
        case 3: return product<3>(v, v_row, weight, depth, m, m_row, rows, more);
        case 4: return product<4>(v, v_row, weight, depth, m, m_row, rows, more);
#endif
    }
}

// How a thread's memory is divided for blocks of `tiles` of a convolution.
struct Layout {
    int64_t tiles, in_row, out_row, in_plane, out_plane;

    // Planes lie an odd number of cache lines apart, or all of a tile's would compete for the same lines of a cache.
    static int64_t plane(int64_t count) { return ((count + 31) / 16 | 1) * 16; }

    Layout(int64_t in, int64_t out, int64_t tiles)
        : tiles(tiles), in_row(round_up(std::min(in, DEEP), N)), out_row(round_up(out, N)),
          in_plane(plane(tiles * in_row)), out_plane(plane(tiles * out_row)) {}

    int64_t size() const { return POINTS * (in_plane + out_plane); }
};

// Transforms the 4x4 results of a tile back and writes those inside the map.
struct Finish {
    const Convolution& c;
    const V factor;

    explicit Finish(const Convolution& c) : c(c), factor(V{} + float(c.scale)) {}

    void operator()(const Tile& tile, const float* products, int64_t plane) const {
        int64_t k = 0;
        for (; k + N <= c.out; k += N) lanes<false>(tile, products + k, plane, k, N);
        if (k < c.out) lanes<true>(tile, products + k, plane, k, c.out - k);
    }

    template <bool PART>
    LMF_INLINE void lanes(const Tile& tile, const float* products, int64_t plane, int64_t k, int64_t count) const {
        const int64_t right = std::min<int64_t>(STEP, c.width - tile.left);
        const int64_t pixel = (tile.image * c.height + tile.top) * c.width + tile.left;
        const V bias = c.bias ? load<PART>(c.bias + k, count) : V{};
        V between[STEP][TILE];
        for (int column = 0; column < TILE; column++) {
            V m[TILE], y[STEP];
            LMF_UNROLL for (int i = 0; i < TILE; i++) m[i] = L::load(products + (i * TILE + column) * plane);
            gather(m, y);
            LMF_UNROLL for (int i = 0; i < STEP; i++) between[i][column] = y[i];
        }
        for (int i = 0; i < STEP && tile.top + i < c.height; i++) {
            V y[STEP];
            gather(between[i], y);
            LMF_UNROLL for (int j = 0; j < STEP; j++) {
                if (j >= right) break;
                const int64_t at = pixel + i * c.width + j;
                V result = y[j] + bias;
                if (c.relu) result = relu(result);
                result *= factor;
                if (c.skip) result += load<PART>(c.skip + at * c.skip_stride + k, count);
                store<PART>(c.y + at * c.y_stride + k, result, count);
            }
        }
    }
};

LMF_INLINE int64_t weight_plane(int64_t depth, int64_t out_row) { return depth * out_row + 16; }
LMF_INLINE int64_t weight_size(int64_t in, int64_t out) {
    return POINTS * (in * round_up(out, N) + (in + DEEP - 1) / DEEP * 16);
}

// Transforms the weights of input channel k and the panel of output channels at `panel`. The result has blocks of up to
// DEEP input channels, in each all points, in each all panels (depth, panel), as `convolve` reads them.
inline void transform(const Convolution& c, int64_t k, int64_t panel, float* result) {
    const int64_t padded = round_up(c.out, N), wide = std::min(PANEL, padded - panel);
    const int64_t start = k / DEEP * DEEP, depth = std::min(DEEP, c.in - start);
    const int64_t plane = weight_plane(depth, padded);
    result += start * POINTS * padded + start / DEEP * POINTS * 16 + panel * depth + (k - start) * wide;
    for (int64_t o = 0; o < wide; o += N, result += N) {
        float g[9][N] = {};
        for (int64_t lane = 0; lane < std::min<int64_t>(N, c.out - panel - o); lane++) {
            const float* from = c.weight + (panel + o + lane) * c.weight_out + k * c.weight_in;
            for (int i = 0; i < 9; i++) g[i][lane] = from[i / 3 * c.weight_row + i % 3 * c.weight_column];
        }
        V between[TILE][3];
        for (int column = 0; column < 3; column++) {
            const V d[3] = {L::load(g[column]), L::load(g[3 + column]), L::load(g[6 + column])};
            V u[TILE];
            filter(d, u);
            LMF_UNROLL for (int i = 0; i < TILE; i++) between[i][column] = u[i];
        }
        for (int i = 0; i < TILE; i++) {
            V u[TILE];
            filter(between[i], u);
            LMF_UNROLL for (int j = 0; j < TILE; j++) L::store(result + (i * TILE + j) * plane, u[j]);
        }
    }
}

// The tiles from `first` on, by transformed weights. Zeros: as many as there are input channels.
inline void convolve(const Convolution& c, const float* weight, const float* zeros, const Layout& to, float* memory,
                     int64_t first) {
    const int64_t count = std::min(to.tiles, c.tiles() - first);
    float *const tiles = memory, *const products = memory + POINTS * to.in_plane;
    for (int64_t start = 0; start < c.in; start += DEEP) {
        const int64_t depth = std::min(DEEP, c.in - start);
        const Spread spread{c.x + start, c.height, c.width, c.x_stride, zeros};
        for (int64_t t = 0; t < count; t++) spread(Tile(c, first + t), depth, tiles + t * to.in_row, to.in_plane);
        // The last product may take rows of tiles that do not exist. Numbers left in memory could slow it down.
        const int64_t missing = std::min<int64_t>(to.tiles - count, 16) * to.in_row;
        for (int i = 0; i < POINTS; i++) std::fill_n(tiles + i * to.in_plane + count * to.in_row, missing, 0.0f);
        for (int i = 0; i < POINTS; i++, weight += weight_plane(depth, to.out_row))
            for (int64_t panel = 0; panel < to.out_row; panel += PANEL)
                product(std::min(PANEL, to.out_row - panel) / N, tiles + i * to.in_plane, to.in_row,
                        weight + panel * depth, depth, products + i * to.out_plane + panel, to.out_row, count,
                        start > 0);
    }
    const Finish finish(c);
    for (int64_t t = 0; t < count; t++) finish(Tile(c, first + t), products + t * to.out_row, to.out_plane);
}

}  // namespace winograd
