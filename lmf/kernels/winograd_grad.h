// Gradients of the weights of a 3x3 convolution, in the transformed domain of F(4x4, 3x3): 36 products of tiles of the
// input with tiles of the result's gradient.
#pragma once
#include "winograd.h"

namespace winograd {

constexpr int64_t PIECE = 96;  // tiles whose sums are taken at a time; those of all pieces are added in order

// Transforms the gradient's 4x4 pixels of each tile: m[point * plane + k], k < count.
struct Scatter {
    const float* grad;
    int64_t height, width, stride;
    const float* zeros;

    void operator()(const Tile& tile, int64_t count, float* m, int64_t plane) const {
        const float* at[STEP * STEP];
        for (int i = 0; i < STEP * STEP; i++) {
            const int64_t y = tile.top + i / STEP, column = tile.left + i % STEP;
            at[i] = y < height && column < width ? grad + ((tile.image * height + y) * width + column) * stride : zeros;
        }
        int64_t k = 0;
        for (; k + N <= count; k += N) lanes<false>(at, k, N, m + k, plane);
        if (k < count) lanes<true>(at, k, count - k, m + k, plane);
    }

    template <bool PART>
    static LMF_INLINE void lanes(const float* const (&at)[STEP * STEP], int64_t k, int64_t count, float* m,
                                 int64_t plane) {
        V between[TILE][STEP];
        for (int column = 0; column < STEP; column++) {
            V y[STEP], s[TILE];
            LMF_UNROLL for (int i = 0; i < STEP; i++) y[i] = load<PART>(at[i * STEP + column] + k, count);
            scatter(y, s);
            LMF_UNROLL for (int i = 0; i < TILE; i++) between[i][column] = s[i];
        }
        for (int i = 0; i < TILE; i++) {
            V s[TILE];
            scatter(between[i], s);
            LMF_UNROLL for (int j = 0; j < TILE; j++) L::store(m + (i * TILE + j) * plane, s[j]);
        }
    }
};

// sums (rows, W N) += x^T m over `tiles`: x (tiles, rows), m (tiles, W N)
template <int W>
void outer(const float* x, int64_t x_row, const float* m, int64_t m_row, int64_t tiles, float* sums, int64_t sums_row,
           int64_t rows) {
    constexpr int R = product_rows<W>();
    for (int64_t r = 0; r < rows; r += R) {
        Block<float, W * N, R> block;
        LMF_UNROLL for (int i = 0; i < R; i++)
            LMF_UNROLL for (int j = 0; j < W; j++) block.at[i][j] = L::load(sums + (r + i) * sums_row + j * N);
        block.multiply(x + r, 1, int(x_row), m, int(m_row), int(tiles));
        LMF_UNROLL for (int i = 0; i < R; i++)
            LMF_UNROLL for (int j = 0; j < W; j++) L::store(sums + (r + i) * sums_row + j * N, block.at[i][j]);
    }
}

inline void outer(int64_t wide, const float* x, int64_t x_row, const float* m, int64_t m_row, int64_t tiles,
                  float* sums, int64_t sums_row, int64_t rows) {
    switch (wide) {
        case 1: return outer<1>(x, x_row, m, m_row, tiles, sums, sums_row, rows);
        case 2: return outer<2>(x, x_row, m, m_row, tiles, sums, sums_row, rows);
#if defined(__AVX512F__) || defined(__aarch64__)
        case 3: return outer<3>(x, x_row, m, m_row, tiles, sums, sums_row, rows);
        case 4: return outer<4>(x, x_row, m, m_row, tiles, sums, sums_row, rows);
#endif
    }
}

// Transforms the sums of input channel k back: result (out, in, 3, 3).
inline void unfilter(const float* sums, int64_t plane, int64_t k, int64_t in, int64_t out, float* result) {
    for (int64_t o = 0; o < out; o += N) {
        V between[3][TILE];
        for (int column = 0; column < TILE; column++) {
            V u[TILE], g[3];
            LMF_UNROLL for (int i = 0; i < TILE; i++) u[i] = L::load(sums + (i * TILE + column) * plane + o);
            unfilter(u, g);
            LMF_UNROLL for (int i = 0; i < 3; i++) between[i][column] = g[i];
        }
        for (int i = 0; i < 3; i++) {
            V g[3];
            unfilter(between[i], g);
            for (int j = 0; j < 3; j++)
                for (int64_t lane = 0; lane < std::min<int64_t>(N, out - o); lane++)
                    result[((o + lane) * in + k) * 9 + i * 3 + j] = g[j][lane];
        }
    }
}

// The gradient (out, in, 3, 3) of the weights, from `grad` with the strides of `c.y`. It does not depend on `threads`:
// every sum is taken by one thread, over the tiles in order.
inline void weight_sums(const Convolution& c, const float* grad, float* result, int64_t threads) {
    const int64_t in_row = round_up(std::min(c.in, DEEP), N), out_row = round_up(c.out, N);
    const int64_t zero_size = std::max(c.in, c.out);
    const int64_t in_plane = Layout::plane(PIECE * in_row), out_plane = Layout::plane(PIECE * out_row);
    const int64_t sums_plane = Layout::plane((in_row + 16) * out_row), panels = (out_row + PANEL - 1) / PANEL;
    const int64_t pieces = std::min(threads, (c.tiles() + PIECE - 1) / PIECE);
    const Memory x = allocate(pieces * POINTS * in_plane), m = allocate(pieces * POINTS * out_plane);
    const Memory sums = allocate(POINTS * sums_plane), zeros = allocate(zero_size);
    std::fill_n(zeros.get(), zero_size, 0.0f);
    std::fill_n(x.get(), pieces * POINTS * in_plane, 0.0f);  // channels are read up to a multiple of rows
#pragma omp parallel num_threads(threads)
    for (int64_t start = 0; start < c.in; start += DEEP) {
        const int64_t depth = std::min(DEEP, c.in - start);
        const Spread spread{c.x + start, c.height, c.width, c.x_stride, zeros.get()};
        const Scatter scatter{grad, c.height, c.width, c.y_stride, zeros.get()};
#pragma omp for schedule(static)
        for (int i = 0; i < POINTS; i++) std::fill_n(sums.get() + i * sums_plane, sums_plane, 0.0f);
        for (int64_t first = 0; first < c.tiles(); first += pieces * PIECE) {
            const int64_t count = std::min(pieces * PIECE, c.tiles() - first);
#pragma omp for schedule(static)
            for (int64_t t = 0; t < count; t++) {
                const int64_t piece = t / PIECE, row = t % PIECE;
                const Tile tile(c, first + t);
                spread(tile, depth, x.get() + piece * POINTS * in_plane + row * in_row, in_plane);
                scatter(tile, c.out, m.get() + piece * POINTS * out_plane + row * out_row, out_plane);
            }
#pragma omp for schedule(static)
            for (int64_t job = 0; job < POINTS * panels; job++) {
                const int64_t point = job / panels, panel = job % panels * PANEL;
                for (int64_t t = 0, piece = 0; t < count; t += PIECE, piece++)
                    outer(std::min(PANEL, out_row - panel) / N, x.get() + (piece * POINTS + point) * in_plane, in_row,
                          m.get() + (piece * POINTS + point) * out_plane + panel, out_row, std::min(PIECE, count - t),
                          sums.get() + point * sums_plane + panel, out_row, depth);
            }
        }
#pragma omp for schedule(static)
        for (int64_t k = 0; k < depth; k++)
            unfilter(sums.get() + k * out_row, sums_plane, start + k, c.in, c.out, result);
    }
}

}  // namespace winograd
