// Bilinear enlargement from one pixel grid to another, border repeated.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

template <class T>
struct Taps {  // for each pixel of an axis the two around it and the weight of the second
    const int64_t *first, *second;
    const T* weight;
    int64_t count;
};

struct Blocks {  // where to write: blocks of rows, each with its runs of columns
    const int64_t *rows, *runs, *columns;  // first row of each block and the end, first run of each and the end, runs
    int64_t count;
};

// out (planes, rows.count, columns.count). A row of the source is widened once for all rows of a block between it and
// the next, so what is left for most pixels is a blend of two rows in cache.
template <class T>
void enlarge(const T* image, int64_t planes, int64_t h, int64_t w, const Taps<T>& rows, const Taps<T>& columns,
             const Blocks& blocks, T* out, int64_t threads) {
    const int64_t width = columns.count;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t job = 0; job < planes * blocks.count; job++) {
        const int64_t plane = job / blocks.count, block = job % blocks.count;
        const int64_t *const first = blocks.columns + 2 * blocks.runs[block];
        const int64_t *const last = blocks.columns + 2 * blocks.runs[block + 1];
        if (first == last) continue;
        std::vector<T> wide[2] = {std::vector<T>(width), std::vector<T>(width)};
        int64_t held[2] = {-1, -1};
        const auto widened = [&](int64_t row, int64_t keep) {  // where it is; row `keep` stays
            if (held[0] == row || held[1] == row) return held[0] == row ? 0 : 1;
            const int slot = held[0] == keep ? 1 : 0;
            const T* line = image + (plane * h + row) * w;
            T* const to = wide[slot].data();
            for (const int64_t* run = first; run < last; run += 2)
                for (int64_t j = run[0]; j < run[1]; j++) {
                    const T left = line[columns.first[j]];
                    to[j] = left + columns.weight[j] * (line[columns.second[j]] - left);
                }
            held[slot] = row;
            return slot;
        };
        for (int64_t i = blocks.rows[block]; i < blocks.rows[block + 1]; i++) {
            const T* above = wide[widened(rows.first[i], rows.second[i])].data();
            const T* below = wide[widened(rows.second[i], rows.first[i])].data();
            const T weight = rows.weight[i];
            T* line = out + (plane * rows.count + i) * width;
            for (const int64_t* run = first; run < last; run += 2)
                for (int64_t j = run[0]; j < run[1]; j++) line[j] = above[j] + weight * (below[j] - above[j]);
        }
    }
}

extern "C" void enlarge_float(const float* image, const int64_t* above, const int64_t* below, const float* down,
                              const int64_t* left, const int64_t* right, const float* along, const int64_t* block_rows,
                              const int64_t* block_runs, const int64_t* runs, float* out, int64_t planes, int64_t h,
                              int64_t w, int64_t H, int64_t W, int64_t blocks, int64_t threads) {
    enlarge(image, planes, h, w, Taps<float>{above, below, down, H}, Taps<float>{left, right, along, W},
            Blocks{block_rows, block_runs, runs, blocks}, out, threads);
}
