// A picture in levels (CMSR): some pixels rendered, others rendered on coarser grids and enlarged.
//
// Threads take chunks of the picture's rows, and of these a band at a time, all levels one after the other. Of a coarse
// level a band leaves behind only the few rows that the next may read, so that between rendering and enlarging they
// never leave the cache, no more than the modulations, which all levels share.
#pragma once
#include "enlarge.h"
#include "skip.h"
#include "tile.h"

template <class T>
struct Layer {
    Problem problem;
    const T *y, *x;  // its pixels
    int64_t height, width;
    Region part;   // those to be rendered
    Region shown;  // the picture's pixels enlarged from it. Null: its pixels are the picture's
    Taps<T> rows, columns;
};

// Asks for the modulations right of column j between the rows v, ahead of their use: at coarse levels they are not in
// cache, and every pixel may want others.
template <class T, int D>
void prefetch(const Problem& p, const Offsets<T>& v, const Columns<T>& u, int64_t j) {
    for (int side = 0; side < 2; side++) {
        const char* from = (const char*)((const T*)p.modulation + v.modulation[side] + u.modulation[1][j]);
        for (int64_t byte = 0; byte < int64_t(2 * p.depth * D * sizeof(T)); byte += 64) __builtin_prefetch(from + byte);
    }
}

// What all threads know of a layer.
template <class T, int D>
struct Plan {
    const Layer<T>& layer;
    const Columns<T> columns;
    const Skip<T> skip;
    int64_t kept;  // rows that a band needs at once

    Plan(const Layer<T>& own, const T* image, int64_t h, int64_t w, int64_t H, int64_t band)
        : layer(own), columns(Renderer<T, D>(own.problem, false, 0).columns(own.x, own.width)),
          skip(image, h, w, own.x, own.width), kept(0) {
        if (layer.shown.rows)
            for (int64_t i = 0; i < H; i += band)
                kept = std::max(kept, layer.rows.second[std::min(i + band, H) - 1] - layer.rows.first[i] + 1);
    }
};

template <class T, int D>
struct Painter {
    const Plan<T, D>& plan;
    Renderer<T, D> tile;
    std::vector<T> canvas, between;  // (plan.kept, 3, layer.width): row i is at i modulo plan.kept
    std::vector<int64_t> at;         // the columns of a block
    std::vector<Offsets<T>> offsets;
    int64_t done = 0;  // up to this row the canvas holds the last `kept` that it was asked for

    explicit Painter(const Plan<T, D>& plan)
        : plan(plan), tile(plan.layer.problem, false, 0), canvas(3 * plan.kept * plan.layer.width),
          between(plan.skip.image ? plan.skip.width : 0) {}

    T* row(int64_t i) { return &canvas[i % plan.kept * 3 * plan.layer.width]; }

    // Renders what is in rows from `start` on; to(i) is where the first plane of row i begins.
    template <class To>
    void render(int64_t start, int64_t stop, To to, int64_t plane) {
        const Region& part = plan.layer.part;
        start = std::max(start, part.rows[0]), stop = std::min(stop, part.rows[part.blocks]);
        for (int64_t block = part.block(start); start < stop; block++) {
            const int64_t end = std::min(stop, part.rows[block + 1]);
            if (start < end)
                render(start, end, part.runs + 2 * part.first[block], part.runs + 2 * part.first[block + 1], to, plane);
            start = std::max(start, end);
        }
    }

    template <class To>
    void render(int64_t start, int64_t stop, const int64_t* runs, const int64_t* end, To to, int64_t plane) {
        const Layer<T>& layer = plan.layer;
        const Columns<T>& columns = plan.columns;
        at.clear(), offsets.clear();
        for (const int64_t* run = runs; run < end; run += 2)
            for (int64_t j = run[0]; j < run[1]; j++) at.push_back(j);
        const int64_t number = at.size();
        if (!number) return;
        at.resize(number + PIXELS - 1, at.back());
        for (int64_t i = start; i < stop; i++) offsets.push_back(tile.row(0, locate(layer.y[i], tile.p.height)));
        for (int64_t n = 0; n < number; n += PIXELS) {
            const int64_t* const here = &at[n];
            const int count = int(std::min<int64_t>(PIXELS, number - n));
            for (int k = PIXELS; k < std::min<int64_t>(2 * PIXELS, number - n); k++)
                if (columns.modulation[1][here[k]] != columns.modulation[1][here[k - 1]])
                    prefetch<T, D>(tile.p, offsets[0], columns, here[k]);
            for (int64_t i = start; i < stop; i++) {
                tile.render(0, offsets[i - start], columns, Picked{here});
                T* const line = to(i);
                for (int c = 0; c < 3; c++)
                    for (int k = 0; k < count; k++) line[c * plane + here[k]] = tile.rgb[k][c];
            }
        }
        for (int64_t i = start; i < stop; i++)
            plan.skip.add(0, layer.y[i], runs, end, between.data(), to(i), plane);
    }

    // Fills rows from `start` on of out (3, H, columns.count), as far as they are this layer's.
    void paint(int64_t start, int64_t stop, T* wide, T* out, int64_t H) {
        const Layer<T>& layer = plan.layer;
        const Region& shown = layer.shown;
        const int64_t width = layer.width;
        if (!shown.rows) return render(start, stop, [=](int64_t i) { return out + i * width; }, H * width);
        start = std::max(start, shown.rows[0]), stop = std::min(stop, shown.rows[shown.blocks]);
        for (int64_t block = shown.block(start); start < stop; block++) {
            const int64_t end = std::min(stop, shown.rows[block + 1]);
            const int64_t *const runs = shown.runs + 2 * shown.first[block];
            const int64_t *const last = shown.runs + 2 * shown.first[block + 1];
            if (start < end && runs < last) {
                const int64_t next = layer.rows.second[end - 1] + 1;
                render(std::max(done, layer.rows.first[start]), next, [this](int64_t i) { return row(i); }, width);
                done = std::max(done, next);
                for (int c = 0; c < 3; c++)
                    enlarge_rows([this, c, width](int64_t i) { return row(i) + c * width; }, layer.rows, layer.columns, start, end,
                                 runs, last, wide, out + c * H * layer.columns.count);
            }
            start = std::max(start, end);
        }
    }
};

// out (3, H, W), of one image (3, h, w); pixels that no layer shows stay. `band`: rows that lie in a latent.
// Null, or what does not fit.
template <class T, int D>
const char* render_layers(const Layer<T>* layers, int64_t count, const T* image, int64_t h, int64_t w, T* out,
                          int64_t H, int64_t W, int64_t band, int64_t threads) {
    for (const Layer<T>* layer = layers; layer < layers + count; layer++) {
        if (!fits(layer->part, layer->height, layer->width)) return "part";
        if (!layer->shown.rows) continue;
        if (!fits(layer->shown, H, W)) return "shown";
        if (!fits(layer->rows, layer->height) || !fits(layer->columns, layer->width)) return "grid";
    }
    const int64_t chunk = band * std::max<int64_t>(8, H / (band * threads * 4) + 1);  // at its ends some is rendered twice
    large_pages(out, 3 * H * W * sizeof(T));
    std::vector<Plan<T, D>> plans;
    plans.reserve(count);
    for (int64_t i = 0; i < count; i++) plans.emplace_back(layers[i], image, h, w, H, band);
#pragma omp parallel num_threads(threads)
    {
        std::vector<Painter<T, D>> painters(plans.begin(), plans.end());
        std::vector<T> wide(2 * W);
#pragma omp for schedule(monotonic : dynamic)
        for (int64_t top = 0; top < H; top += chunk) {  // downwards: what a thread has of the last chunk stays good
            const int64_t bottom = std::min(top + chunk, H);
            for (int64_t i = top; i < bottom; i += band)
                for (auto& painter : painters) painter.paint(i, std::min(i + band, bottom), wide.data(), out, H);
        }
    }    return nullptr;
}
