// What the library offers: a modulated MLP rendered at points and on grids, and its gradients, over threads.
#ifdef _OPENMP
#include <omp.h>
#endif

#include "enlarge.h"
#include "tile.h"

static int thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

// Places up to PIXELS queries at[0 .. count - 1] of the batch; a short tile repeats its first.
template <class T, int D>
void place_points(Renderer<T, D>& tile, const T* coord, int64_t queries, const int64_t* at, int count) {
    for (int i = 0; i < PIXELS; i++) {
        if (i >= count) {
            tile.repeat(i, 0);
            continue;
        }
        const T* c = coord + 2 * at[i];
        const int64_t image = at[i] / queries;
        tile.place(i, image, tile.row(image, locate(c[0], tile.p.height)), tile.column(locate(c[1], tile.p.width)));
    }
}

template <class T, int D>
void points(const Problem& p, const T* coord, int64_t queries, T* rgb) {
    const int64_t total = p.batch * queries, chunk = 64 * PIXELS;
#pragma omp parallel num_threads(p.threads)
    {
        Renderer<T, D> tile(p, false, 0);
#pragma omp for schedule(dynamic)
        for (int64_t start = 0; start < total; start += chunk)
            for (int64_t q = start; q < std::min(start + chunk, total); q += PIXELS) {
                const int count = int(std::min<int64_t>(PIXELS, total - q));
                int64_t at[PIXELS];
                for (int i = 0; i < count; i++) at[i] = q + i;
                place_points(tile, coord, queries, at, count);
                tile.template forward<false, false>();
                for (int i = 0; i < count; i++) std::copy(tile.rgb[i], tile.rgb[i] + 3, rgb + 3 * (q + i));
            }
    }
}

// Queries are taken latent row by latent row. A row's queries add to the gradients of three rows at most (rounding can
// part the two neighbours by 2), so every third row can run at once, without locks and in an order that never changes.
template <class T, int D>
void points_backward(const Problem& p, const T* coord, int64_t queries, const T* grad) {
    const int64_t total = p.batch * queries, lines = p.batch * p.height;
    std::vector<int64_t> begin(lines + 1), order(total), line(total);
#pragma omp parallel for num_threads(p.threads)
    for (int64_t q = 0; q < total; q++)
        line[q] = q / queries * p.height + locate(coord[2 * q], p.height).index[0];
    for (int64_t q = 0; q < total; q++) begin[line[q] + 1]++;
    for (int64_t i = 0; i < lines; i++) begin[i + 1] += begin[i];
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    for (int64_t q = 0; q < total; q++) order[next[line[q]]++] = q;
#pragma omp parallel num_threads(p.threads)
    {
        Renderer<T, D> tile(p, true, thread_number());
        for (int phase = 0; phase < 3; phase++) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < lines; i++) {
                if (i % p.height % 3 != phase) continue;
                for (int64_t q = begin[i]; q < begin[i + 1]; q += PIXELS) {
                    const int count = int(std::min<int64_t>(PIXELS, begin[i + 1] - q));
                    T g[PIXELS][3] = {};
                    for (int j = 0; j < count; j++)
                        for (int c = 0; c < 3; c++) g[j][c] = grad[3 * order[q + j] + c];
                    place_points(tile, coord, queries, &order[q], count);
                    tile.template forward<true, false>();
                    tile.backward(g);
                }
            }
        }
    }
}

template <class T>
struct Sample {  // bilinear sampling on one axis, border repeated
    int64_t index[2];
    T weight;  // of the second
    Sample(T c, int64_t n) {
        const T x = std::min(std::max(((c + 1) * n - 1) / 2, T(0)), T(n - 1));
        index[0] = int64_t(x);
        index[1] = std::min(index[0] + 1, n - 1);
        weight = x - index[0];
    }
};

// rgb (batch, 3, H, W) at the crossings of y (H) and x (W), plus image (batch, 3, size) sampled there unless null.
// A few rows at a time, and these tile by tile: what one reads of the latents the next finds in cache.
template <class T, int D>
void grid(const Problem& p, const T* y, int64_t H, const T* x, int64_t W, const T* image, const int64_t* size, T* rgb) {
    constexpr int64_t BAND = 4;
    if (!W) return;
    const int64_t bands = (H + BAND - 1) / BAND;
    Columns<T> columns;
    std::vector<Sample<T>> sample;
    const Renderer<T, D> any(p, false, 0);
    for (int64_t j = 0; j < W + PIXELS - 1; j++) {
        const Offsets<T> column = any.column(locate(x[std::min(j, W - 1)], p.width));
        for (int side = 0; side < 2; side++) {
            columns.modulation[side].push_back(column.modulation[side]);
            columns.code[side].push_back(column.code[side]);
            columns.rel[side].push_back(column.rel[side]);
        }
    }
    // The first tile ends where the left border does, so that at x8 and x16 all others have shared neighbours.
    int64_t start = std::min<int64_t>(PIXELS, W);
    while (start > 1 && columns.modulation[1][start - 1] != columns.modulation[1][0]) start--;
    for (int64_t j = 0; image && j < W; j++) sample.emplace_back(x[j], size[1]);
#pragma omp parallel num_threads(p.threads)
    {
        Renderer<T, D> tile(p, false, 0);
        std::vector<T> between(image ? size[1] : 0);
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < p.batch * bands; job++) {
            const int64_t b = job / bands, top = job % bands * BAND, rows = std::min(BAND, H - top);
            T* corner = rgb + (b * 3 * H + top) * W;
            Offsets<T> row[BAND];
            for (int64_t i = 0; i < rows; i++) row[i] = tile.row(b, locate(y[top + i], p.height));
            for (int64_t j = 0, next; j < W; j = next) {
                next = j ? std::min(j + PIXELS, W) : start;
                const int count = int(next - j);
                for (int64_t i = 0; i < rows; i++) {
                    if (tile.place_row(b, row[i], columns, j))
                        tile.template forward<false, true>();
                    else
                        tile.template forward<false, false>();
                    for (int c = 0; c < 3; c++)
                        for (int k = 0; k < count; k++) corner[(c * H + i) * W + j + k] = tile.rgb[k][c];
                }
            }
            for (int64_t i = 0; image && i < rows; i++) {
                const Sample<T> v(y[top + i], size[0]);
                for (int c = 0; c < 3; c++) {
                    const T* plane = image + (b * 3 + c) * size[0] * size[1];
                    const T *above = plane + v.index[0] * size[1], *below = plane + v.index[1] * size[1];
                    T* line = corner + (c * H + i) * W;
                    for (int64_t j = 0; j < size[1]; j++) between[j] = above[j] + v.weight * (below[j] - above[j]);
                    for (int64_t j = 0; j < W; j++) {
                        const T left = between[sample[j].index[0]];
                        line[j] += left + sample[j].weight * (between[sample[j].index[1]] - left);
                    }
                }
            }
        }
    }
}

// Asks for the modulations right of column u between the rows v, ahead of their use: at coarse levels they are not in
// cache, and every pixel may want others.
template <class T, int D>
void prefetch(const Problem& p, const Offsets<T>& v, const Offsets<T>& u) {
    for (int side = 0; side < 2; side++) {
        const char* from = (const char*)((const T*)p.modulation + v.modulation[side] + u.modulation[1]);
        for (int64_t byte = 0; byte < int64_t(2 * p.depth * D * sizeof(T)); byte += 64) __builtin_prefetch(from + byte);
    }
}

// Of a picture as `grid` makes it only the pixels that marks (H, W) names, into rgb (3, H, W); the others stay. One image.
template <class T, int D>
void marked(const Problem& p, const T* y, int64_t H, const T* x, int64_t W, const uint8_t* marks, const T* image,
            const int64_t* size, T* rgb) {
    std::vector<Offsets<T>> column;
    std::vector<Sample<T>> sample;
    const Renderer<T, D> any(p, false, 0);
    for (int64_t j = 0; j < W; j++) {
        column.push_back(any.column(locate(x[j], p.width)));
        if (image) sample.emplace_back(x[j], size[1]);
    }
#pragma omp parallel num_threads(p.threads)
    {
        Renderer<T, D> tile(p, false, 0);
        std::vector<int64_t> at(W);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < H; i++) {
            int64_t number = 0;
            for (int64_t j = 0; j < W; j++) {
                at[number] = j;
                number += marks[i * W + j] != 0;
            }
            if (!number) continue;
            const Offsets<T> here = tile.row(0, locate(y[i], p.height));
            T* line = rgb + i * W;
            for (int64_t n = 0; n < number; n += PIXELS) {
                const int count = int(std::min<int64_t>(PIXELS, number - n));
                for (int k = 0; k < PIXELS; k++) tile.place(k, 0, here, column[at[n + (k < count ? k : 0)]]);
                for (int64_t k = n + PIXELS; k < std::min(n + 2 * PIXELS, number); k++)
                    if (column[at[k]].latent[1] != column[at[k - 1]].latent[1]) prefetch<T, D>(p, here, column[at[k]]);
                if (tile.shared(count))
                    tile.template forward<false, true>();
                else
                    tile.template forward<false, false>();
                for (int c = 0; c < 3; c++)
                    for (int k = 0; k < count; k++) line[c * H * W + at[n + k]] = tile.rgb[k][c];
            }
            if (!image) continue;
            const Sample<T> v(y[i], size[0]);
            for (int c = 0; c < 3; c++) {
                const T* plane = image + c * size[0] * size[1];
                const T *above = plane + v.index[0] * size[1], *below = plane + v.index[1] * size[1];
                for (int64_t n = 0; n < number; n++) {
                    const Sample<T>& u = sample[at[n]];
                    const T left = above[u.index[0]] + v.weight * (below[u.index[0]] - above[u.index[0]]);
                    const T right = above[u.index[1]] + v.weight * (below[u.index[1]] - above[u.index[1]]);
                    line[c * H * W + at[n]] += left + u.weight * (right - left);
                }
            }
        }
    }
}

#define EXPORT(T, D)                                                                                                   \
    extern "C" void points_##T##_##D(const Problem* p, const T* coord, int64_t queries, T* rgb) {                      \
        points<T, D>(*p, coord, queries, rgb);                                                                         \
    }                                                                                                                  \
    extern "C" void points_backward_##T##_##D(const Problem* p, const T* coord, int64_t queries, const T* grad) {      \
        points_backward<T, D>(*p, coord, queries, grad);                                                               \
    }                                                                                                                  \
    extern "C" void grid_##T##_##D(const Problem* p, const T* y, int64_t H, const T* x, int64_t W, const T* image,     \
                                   const int64_t* size, T* rgb) {                                                      \
        grid<T, D>(*p, y, H, x, W, image, size, rgb);                                                                  \
    }                                                                                                                  \
    extern "C" void marked_##T##_##D(const Problem* p, const T* y, int64_t H, const T* x, int64_t W,                   \
                                     const uint8_t* marks, const T* image, const int64_t* size, T* rgb) {              \
        marked<T, D>(*p, y, H, x, W, marks, image, size, rgb);                                                         \
    }
EXPORT(float, 16)
EXPORT(float, 32)
EXPORT(double, 16)
EXPORT(double, 32)
