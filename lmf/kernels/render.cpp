// What the library offers: a modulated MLP rendered at points and on grids, and its gradients, over threads.
#ifdef _OPENMP
#include <omp.h>
#endif

#include "field.h"
#include "layers.h"
#include "skip.h"
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

// rgb (batch, 3, H, W) at the crossings of y (H) and x (W), plus image (batch, 3, h, w) sampled there unless null.
// A few rows at a time, and these tile by tile: what one reads of the latents the next finds in cache.
template <class T, int D>
void grid(const Problem& p, const T* y, int64_t H, const T* x, int64_t W, const T* image, int64_t h, int64_t w, T* rgb) {
    constexpr int64_t BAND = 4;
    if (!W) return;
    large_pages(rgb, p.batch * 3 * H * W * sizeof(T));
    const int64_t bands = (H + BAND - 1) / BAND, all[2] = {0, W};
    const Columns<T> columns = Renderer<T, D>(p, false, 0).columns(x, W);
    const Skip<T> skip(image, h, w, x, W);
    // The first tile ends where the left border does, so that at x8 and x16 all others have shared neighbours.
    int64_t start = std::min<int64_t>(PIXELS, W);
    while (start > 1 && columns.modulation[1][start - 1] != columns.modulation[1][0]) start--;
#pragma omp parallel num_threads(p.threads)
    {
        Renderer<T, D> tile(p, false, 0);
        std::vector<T> between(image ? skip.width : 0);
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < p.batch * bands; job++) {
            const int64_t b = job / bands, top = job % bands * BAND, rows = std::min(BAND, H - top);
            T* corner = rgb + (b * 3 * H + top) * W;
            Offsets<T> row[BAND];
            for (int64_t i = 0; i < rows; i++) row[i] = tile.row(b, locate(y[top + i], p.height));
            for (int64_t j = 0, next; j < W; j = next) {
                next = j ? std::min(j + PIXELS, W) : start;
                for (int64_t i = 0; i < rows; i++) {
                    tile.render(b, row[i], columns, Stretch{j});
                    for (int c = 0; c < 3; c++)
                        for (int k = 0; k < next - j; k++) corner[(c * H + i) * W + j + k] = tile.rgb[k][c];
                }
            }
            for (int64_t i = 0; i < rows; i++)
                skip.add(b, y[top + i], all, all + 2, between.data(), corner + i * W, H * W);
        }
    }
}

// So that those who call can see whether their structs are these.
extern "C" int64_t struct_size(int64_t which) {
    const int64_t sizes[] = {sizeof(Problem), sizeof(Region), sizeof(Taps<double>), sizeof(Layer<double>)};
    return sizes[which];
}

#define EXPORT(T, D)                                                                                                   \
    extern "C" void points_##T##_##D(const Problem* p, const T* coord, int64_t queries, T* rgb) {                      \
        points<T, D>(*p, coord, queries, rgb);                                                                         \
    }                                                                                                                  \
    extern "C" void points_backward_##T##_##D(const Problem* p, const T* coord, int64_t queries, const T* grad) {      \
        points_backward<T, D>(*p, coord, queries, grad);                                                               \
    }                                                                                                                  \
    extern "C" void grid_##T##_##D(const Problem* p, const T* y, int64_t H, const T* x, int64_t W, const T* image,     \
                                   int64_t h, int64_t w, T* rgb) {                                                     \
        grid<T, D>(*p, y, H, x, W, image, h, w, rgb);                                                                  \
    }                                                                                                                  \
    extern "C" const char* layers_##T##_##D(const Problem* p, const Layer<T>* layers, int64_t count, const T* image,   \
                                            int64_t h, int64_t w, T* out, int64_t H, int64_t W, int64_t band) {        \
        return render_layers<T, D>(layers, count, image, h, w, out, H, W, band, p->threads);                           \
    }
EXPORT(float, 16)
EXPORT(float, 32)
EXPORT(double, 16)
EXPORT(double, 32)
