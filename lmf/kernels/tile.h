// A tile of pixels through the modulated MLP, forward and backward. reference.py is the definition.
//
// What makes this fast: layer 0's per-latent part comes ready from the caller; a weight is loaded once for several
// rows (a row: one of the four neighbours of one of PIXELS pixels); modulations are read in place as contiguous
// vectors; the four hidden vectors are blended before the output layer, which is linear.
#pragma once
#include <algorithm>
#include <vector>

#include "place.h"
#include "vector.h"

// One call. Lengths and strides count elements. The last six pointers are null in the forward pass.
struct Problem {
    int64_t batch, height, width;      // of the latent grid
    int64_t row, rows;                 // latent rows held: row .. row + rows - 1
    int64_t depth, features;           // hidden layers L; numbers M entering layer 0 in Fourier encoding, 0 in linear encoding
    int64_t stride, batch_stride;      // of modulation: to the next latent, to the next image
    int64_t code_stride, code_batch_stride;
    int64_t threads;
    const void* modulation;            // (batch, rows, width, 2 L D)
    const void* code;                  // (batch, rows, width, D), or M amplitudes, M/2 y and M/2 x frequencies
    const void* phase;                 // (batch, M/2)
    const void *first, *hidden, *out;  // (2 or M, D), (L - 1, in D, out D), (D, 4)
    const void *bias, *out_bias;       // (L, D), (4)
    const void *first_back, *hidden_back, *out_back;  // (D, M), (L - 1, out D, in D), (3, D)
    void *grad_modulation, *grad_code, *grads;  // contiguous; (threads, first | hidden | bias | out | out_bias | phase)
};

template <class T>
struct Offsets {  // of a place's two latents, counted in elements
    int64_t latent[2], modulation[2], code[2];
    T rel[2];
};

constexpr int PIXELS = 8, ROWS = 4 * PIXELS;  // row m * PIXELS + i is neighbour m of pixel i

template <class T>
struct Columns {  // the offsets of many places side by side, the last repeated to fill a tile
    std::vector<int64_t> modulation[2], code[2];
    std::vector<T> rel[2];
    bool ordered;  // whether the modulations ascend
};

// The columns of a tile: side by side, or picked.
struct Stretch {
    int64_t start;
    int64_t operator[](int i) const { return start + i; }
    template <class T, class V>
    LMF_INLINE void load(const T* from, V& v) const { v = Lanes<T, PIXELS>::load(from + start); }
};

struct Picked {
    const int64_t* at;
    int64_t operator[](int i) const { return at[i]; }
    template <class T, class V>
    LMF_INLINE void load(const T* from, V& v) const {
        LMF_UNROLL for (int i = 0; i < PIXELS; i++) v[i] = from[at[i]];
    }
};

template <class T, int D>
struct Renderer {
    static constexpr int R = block_rows<T, D>();
    static constexpr int N = REGISTER / sizeof(T);
    using B = Block<T, D, R>;
    using L = typename B::L;
    using V = typename B::V;
    using L8 = Lanes<T, 8>;
    using V8 = typename L8::V;

    const Problem& p;
    const int depth, features, code_size;
    const T *first, *hidden, *out, *bias, *out_bias;
    T* grads;
    // A tile of pixels: where its rows read, and everything computed on the way.
    int64_t image[PIXELS], latent[ROWS];
    const T *modulation[ROWS], *code[ROWS];
    alignas(64) T rel[2][ROWS], weight[ROWS];
    alignas(64) T blend[PIXELS][D], rgb[PIXELS][4];  // r, g, b, nothing
    std::vector<T> input, x, y, dx, dy;  // (ROWS, M), (L, ROWS, D) twice, (ROWS, max(M, D)), (ROWS, D)

    Renderer(const Problem& problem, bool keep, int thread)
        : p(problem), depth(p.depth), features(p.features), code_size(features ? 2 * features : D),
          first((const T*)p.first), hidden((const T*)p.hidden), out((const T*)p.out), bias((const T*)p.bias),
          out_bias((const T*)p.out_bias), grads((T*)p.grads + thread * (keep ? count() : 0)), input(ROWS * features),
          x((keep ? depth : 1) * ROWS * D), y(keep ? x.size() : 0), dx(keep ? ROWS * std::max(features, D) : 0),
          dy(keep ? ROWS * D : 0) {}

    int64_t count() const {
        return ((features ? features : 2) + (depth - 1) * D + depth + 3) * D + 3 + p.batch * features / 2;
    }

    Offsets<T> row(int64_t number, const Place<T>& at) const {
        const int64_t first = number * p.rows * p.width - p.row * p.width, start = -p.row * p.width;
        Offsets<T> o;
        for (int side = 0; side < 2; side++) {
            o.latent[side] = first + at.index[side] * p.width;
            o.modulation[side] = number * p.batch_stride + (start + at.index[side] * p.width) * p.stride;
            o.code[side] = number * p.code_batch_stride + (start + at.index[side] * p.width) * p.code_stride;
            o.rel[side] = at.rel[side];
        }
        return o;
    }

    Offsets<T> column(const Place<T>& at) const {
        Offsets<T> o;
        for (int side = 0; side < 2; side++) {
            o.latent[side] = at.index[side];
            o.modulation[side] = at.index[side] * p.stride;
            o.code[side] = at.index[side] * p.code_stride;
            o.rel[side] = at.rel[side];
        }
        return o;
    }

    LMF_INLINE void place(int pixel, int64_t number, const Offsets<T>& v, const Offsets<T>& u) {
        T area[4];
        image[pixel] = number;
        LMF_UNROLL for (int m = 0; m < 4; m++) {
            const int r = m * PIXELS + pixel;
            latent[r] = v.latent[m / 2] + u.latent[m % 2];
            modulation[r] = (const T*)p.modulation + (v.modulation[m / 2] + u.modulation[m % 2]);
            code[r] = (const T*)p.code + (v.code[m / 2] + u.code[m % 2]);
            rel[0][r] = v.rel[m / 2];
            rel[1][r] = u.rel[m % 2];
            area[m] = std::abs(rel[0][r] * rel[1][r]) + T(1e-9);
        }
        const T share = 1 / (area[0] + area[1] + area[2] + area[3]);
        LMF_UNROLL for (int m = 0; m < 4; m++) weight[m * PIXELS + pixel] = area[3 - m] * share;
    }

    Columns<T> columns(const T* x, int64_t count) const {
        Columns<T> all;
        for (int64_t j = 0; j < count + PIXELS - 1; j++) {
            const Offsets<T> one = column(locate(x[std::min(j, count - 1)], p.width));
            for (int side = 0; side < 2; side++) {
                all.modulation[side].push_back(one.modulation[side]);
                all.code[side].push_back(one.code[side]);
                all.rel[side].push_back(one.rel[side]);
            }
        }
        all.ordered = true;
        for (const auto& at : all.modulation) all.ordered &= std::is_sorted(at.begin(), at.end());
        return all;
    }

    // A whole tile of one row, of the columns `at`. Places them as `place` does, but for `latent`. The blend's weights
    // stay in registers: written to memory in parts they could not be read again as a whole without waiting.
    template <class At>
    LMF_INLINE void render(int64_t number, const Offsets<T>& v, const Columns<T>& u, const At& at) {
        V8 x[2] = {}, area[4];
        LMF_UNROLL for (int side = 0; side < 2; side++) {
            at.load(u.rel[side].data(), x[side]);
            LMF_UNROLL for (int m = side; m < 4; m += 2) {
                const T* above = (const T*)p.modulation + v.modulation[m / 2];
                const T* coded = (const T*)p.code + v.code[m / 2];
                for (int i = 0; i < PIXELS; i++) modulation[m * PIXELS + i] = above + u.modulation[side][at[i]];
                for (int i = 0; i < PIXELS; i++) code[m * PIXELS + i] = coded + u.code[side][at[i]];
                L8::store(rel[0] + m * PIXELS, V8{} + v.rel[m / 2]);
                L8::store(rel[1] + m * PIXELS, x[side]);
                const V8 product = v.rel[m / 2] * x[side];
                area[m] = (product < 0 ? -product : product) + T(1e-9);
            }
        }
        const V8 share = T(1) / (area[0] + area[1] + area[2] + area[3]);
        LMF_UNROLL for (int m = 0; m < 4; m++) L8::store(weight + m * PIXELS, area[3 - m] * share);
        for (int i = 0; i < PIXELS; i++) image[i] = number;
        const int last = PIXELS - 1;  // with the neighbours of the first: so have all, if they are in order
        if (u.ordered && modulation[0] == modulation[last] && modulation[PIXELS] == modulation[PIXELS + last])
            forward<false, true>();
        else
            forward<false, false>();
    }

    void repeat(int pixel, int from) {
        image[pixel] = image[from];
        for (int m = 0; m < ROWS; m += PIXELS) {
            const int r = m + pixel, s = m + from;
            latent[r] = latent[s], modulation[r] = modulation[s], code[r] = code[s], weight[r] = weight[s];
            rel[0][r] = rel[0][s], rel[1][r] = rel[1][s];
        }
    }

    // f of eight frequencies of row r, from k on.
    LMF_INLINE V8 frequency(int r, int k) const {
        const T* f = code[r] + features + k;
        const T* phase = (const T*)p.phase + image[r % PIXELS] * features / 2 + k;
        return L8::load(f) * rel[0][r] + L8::load(f + features / 2) * rel[1][r] + L8::load(phase);
    }

    void fourier() {
        for (int r = 0; r < ROWS; r++)
            for (int k = 0; k < features / 2; k += 8) {
                V8 c, s;
                sincospi(frequency(r, k), c, s, T());
                T* z = &input[r * features + k];
                L8::store(z, L8::load(code[r] + k) * c);
                L8::store(z + features / 2, L8::load(code[r] + features / 2 + k) * s);
            }
    }

    // KEEP: for `backward`. SHARED: all pixels have the same four neighbours.
    template <bool KEEP, bool SHARED>
    void forward() {
        // Copies that stores through pointers cannot change, so that they stay in registers.
        const int depth = this->depth, features = this->features;
        const T *const hidden = this->hidden, *const first = this->first;
        T *const x = this->x.data(), *const y = this->y.data();
        if (features) fourier();
        const T* in = input.data();
        for (int l = 0; l < depth; l++) {
            T* next = x + (KEEP ? l * ROWS * D : 0);
            const T* weights = l ? hidden + (l - 1) * D * D : first;
            for (int r = 0; r < ROWS; r += R) {
                B block;
                block.fill(bias + l * D);
                if (l)
                    block.multiply(in + r * D, D, 1, weights, D, D);
                else if (features)
                    block.multiply(in + r * features, features, 1, weights, D, features);
                else {
                    LMF_UNROLL for (int i = 0; i < R; i++)
                        LMF_UNROLL for (int v = 0; v < B::W; v++) block.at[i][v] += L::load(code[r + i] + v * N);
                    block.multiply(rel[0] + r, 1, ROWS, weights, D, 2);
                }
                V scale[B::W], shift[B::W];
                LMF_UNROLL for (int i = 0; i < R; i++) {
                    const T* at = modulation[r + i] + l * D;
                    LMF_UNROLL for (int v = 0; v < B::W; v++) {
                        if (!SHARED || i % PIXELS == 0) {
                            scale[v] = L::load(at + v * N);
                            shift[v] = L::load(at + depth * D + v * N);
                        }
                        const V a = block.at[i][v];
                        if (KEEP) L::store(y + (l * ROWS + r + i) * D + v * N, a);
                        L::store(next + (r + i) * D + v * N, relu(a * scale[v] + (a + shift[v])));
                    }
                }
            }
            in = next;
        }
        for (int i = 0; i < PIXELS; i++)
            LMF_UNROLL for (int v = 0; v < B::W; v++) {
                V b{};
                LMF_UNROLL for (int m = 0; m < 4; m++)
                    b += weight[m * PIXELS + i] * L::load(in + (m * PIXELS + i) * D + v * N);
                L::store(blend[i] + v * N, b);
            }
        Block<T, 4, PIXELS, 4> colour;
        colour.fill(out_bias);
        colour.multiply(blend[0], D, 1, out, 4, D);
        for (int i = 0; i < PIXELS; i++) Lanes<T, 4>::store(rgb[i], colour.at[i][0]);
    }

    // grad (K, D) += a^T b over the tile's rows: a (ROWS, K), its rows `step` apart and its columns `next`, b (ROWS, D).
    // K is a multiple of S.
    template <int S>
    LMF_INLINE void outer(const T* a, int K, int step, int next, const T* b, T* grad) {
        for (int k = 0; k < K; k += S) {
            Block<T, D, S> block;
            LMF_UNROLL for (int i = 0; i < S; i++)
                LMF_UNROLL for (int v = 0; v < B::W; v++) block.at[i][v] = L::load(grad + (k + i) * D + v * N);
            block.multiply(a + k * next, next, step, b, D, ROWS);
            LMF_UNROLL for (int i = 0; i < S; i++)
                LMF_UNROLL for (int v = 0; v < B::W; v++) L::store(grad + (k + i) * D + v * N, block.at[i][v]);
        }
    }

    // dx (ROWS, K) = dy (ROWS, D) weight (D, K)
    LMF_INLINE void pull(const T* weight, int K) {
        for (int column = 0; column < K; column += D)
            for (int r = 0; r < ROWS; r += R) {
                B block;
                block.zero();
                block.multiply(&dy[r * D], D, 1, weight + column, K, D);
                LMF_UNROLL for (int i = 0; i < R; i++)
                    LMF_UNROLL for (int v = 0; v < B::W; v++)
                        L::store(&dx[(r + i) * K + column + v * N], block.at[i][v]);
            }
    }

    // After forward<true, false>: adds the gradients of sum(grad * rgb) to all that the tile read.
    void backward(const T (&grad)[PIXELS][3]) {
        T* grad_first = grads;
        T* grad_hidden = grad_first + (features ? features : 2) * D;
        T* grad_bias = grad_hidden + (depth - 1) * D * D;
        T* grad_out = grad_bias + depth * D;
        for (int i = 0; i < PIXELS; i++)
            for (int v = 0; v < D; v += N) {
                V g{};
                for (int c = 0; c < 3; c++) {
                    g += grad[i][c] * L::load((const T*)p.out_back + c * D + v);
                    L::add(grad_out + c * D + v, grad[i][c] * L::load(blend[i] + v));
                }
                for (int r = i; r < ROWS; r += PIXELS) L::store(&dx[r * D + v], weight[r] * g);
            }
        for (int i = 0; i < PIXELS; i++)
            for (int c = 0; c < 3; c++) grad_out[3 * D + c] += grad[i][c];
        for (int l = depth - 1; l >= 0; l--) {
            for (int r = 0; r < ROWS; r++) {
                const T* scale = modulation[r] + l * D;
                T* grad_scale = (T*)p.grad_modulation + (latent[r] * 2 * depth + l) * D;
                T* grad_shift = grad_scale + depth * D;
                for (int v = 0; v < D; v += N) {
                    const int at = (l * ROWS + r) * D + v;
                    const V zero{}, d = L::load(&x[at]) > zero ? L::load(&dx[r * D + v]) : zero;
                    L::add(grad_shift + v, d);
                    L::add(grad_scale + v, d * L::load(&y[at]));
                    const V e = d + d * L::load(scale + v);
                    L::store(&dy[r * D + v], e);
                    L::add(grad_bias + l * D + v, e);
                }
            }
            if (l) {
                outer<R>(&x[(l - 1) * ROWS * D], D, D, 1, dy.data(), grad_hidden + (l - 1) * D * D);
                pull((const T*)p.hidden_back + (l - 1) * D * D, D);
            }
        }
        if (features) {
            outer<R>(input.data(), features, features, 1, dy.data(), grad_first);
            pull((const T*)p.first_back, features);
            backward_fourier();
        } else {
            outer<2>(rel[0], 2, 1, ROWS, dy.data(), grad_first);
            for (int r = 0; r < ROWS; r++)
                for (int v = 0; v < D; v += N)
                    L::add((T*)p.grad_code + latent[r] * code_size + v, L::load(&dy[r * D + v]));
        }
    }

    void backward_fourier() {
        for (int r = 0; r < ROWS; r++)
            for (int k = 0; k < features / 2; k += 8) {
                V8 c, s;
                sincospi(frequency(r, k), c, s, T());
                const T *coef = code[r] + k, *dz = &dx[r * features + k];
                const V8 dc = L8::load(dz), ds = L8::load(dz + features / 2);
                const V8 f = T(3.14159265358979323846) *
                             (ds * L8::load(coef + features / 2) * c - dc * L8::load(coef) * s);
                T* grad = (T*)p.grad_code + latent[r] * code_size + k;
                L8::add(grad, dc * c);
                L8::add(grad + features / 2, ds * s);
                L8::add(grad + features, f * rel[0][r]);
                L8::add(grad + features / 2 * 3, f * rel[1][r]);
                L8::add(grads + count() - (p.batch - image[r % PIXELS]) * features / 2 + k, f);
            }
    }
};
