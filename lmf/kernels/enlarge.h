// Bilinear enlargement from one pixel grid to another, border repeated.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "pages.h"

template <class T>
struct Taps {  // for each pixel of an axis the two around it and the weight of the second
    const int64_t *first, *second;
    const T* weight;
    int64_t count;
};

struct Region {  // some pixels: blocks of rows, each with its runs of columns
    const int64_t *rows, *first, *runs;  // first row of each block and the end, first run of each and the end, runs
    int64_t blocks, count;               // of these, and of the runs

    // Which has a row, one from rows[0] to rows[blocks] - 1.
    int64_t block(int64_t row) const { return std::upper_bound(rows, rows + blocks + 1, row) - rows - 1; }
};

// low <= v[0] <= ... <= v[n - 1] <= high
inline bool ascending(const int64_t* v, int64_t n, int64_t low, int64_t high) {
    for (int64_t i = 0; i < n; low = v[i++])
        if (v[i] < low || v[i] > high) return false;
    return true;
}

// Whether each of these lies within the H x W pixels, or n pixels, that it is about. Asked before any is used.
inline bool fits(const Region& part, int64_t H, int64_t W) {
    if (!ascending(part.rows, part.blocks + 1, 0, H) || !ascending(part.first, part.blocks + 1, 0, part.count))
        return false;
    for (int64_t block = 0; block < part.blocks; block++)
        if (!ascending(part.runs + 2 * part.first[block], 2 * (part.first[block + 1] - part.first[block]), 0, W))
            return false;
    return true;
}

template <class T>
bool fits(const Taps<T>& taps, int64_t n) {
    return ascending(taps.first, taps.count, 0, n - 1) && ascending(taps.second, taps.count, 0, n - 1);
}

// Some runs of the rows from `start` on of the plane `out`, columns.count wide. `source(row)` is a row of what is
// enlarged. It is widened once for all rows between it and the next, so what is left for most pixels is a blend of two
// rows in cache. `wide` has room for two rows.
template <class T, class Source>
void enlarge_rows(Source source, const Taps<T>& rows, const Taps<T>& columns, int64_t start, int64_t stop,
                  const int64_t* runs, const int64_t* end, T* wide, T* out) {
    int64_t held[2] = {-1, -1};
    const auto widened = [&](int64_t row, int64_t keep) {  // where it is; row `keep` stays
        if (held[0] == row || held[1] == row) return held[0] == row ? 0 : 1;
        const int slot = held[0] == keep ? 1 : 0;
        const T* line = source(row);
        T* const to = wide + slot * columns.count;
        for (const int64_t* run = runs; run < end; run += 2)
            for (int64_t j = run[0]; j < run[1]; j++) {
                const T left = line[columns.first[j]];
                to[j] = left + columns.weight[j] * (line[columns.second[j]] - left);
            }
        held[slot] = row;
        return slot;
    };
    for (int64_t i = start; i < stop; i++) {
        const T* above = wide + widened(rows.first[i], rows.second[i]) * columns.count;
        const T* below = wide + widened(rows.second[i], rows.first[i]) * columns.count;
        const T weight = rows.weight[i];
        T* line = out + i * columns.count;
        for (const int64_t* run = runs; run < end; run += 2)
            for (int64_t j = run[0]; j < run[1]; j++) line[j] = above[j] + weight * (below[j] - above[j]);
    }
}

// out (planes, rows.count, columns.count)
template <class T>
void enlarge(const T* image, int64_t planes, int64_t h, int64_t w, const Taps<T>& rows, const Taps<T>& columns,
             const Region& part, T* out, int64_t threads) {
    large_pages(out, planes * rows.count * columns.count * sizeof(T));
#pragma omp parallel num_threads(threads)
    {
        std::vector<T> wide(2 * columns.count);
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < planes * part.blocks; job++) {
            const int64_t plane = job / part.blocks, block = job % part.blocks;
            enlarge_rows([=](int64_t row) { return image + (plane * h + row) * w; }, rows, columns, part.rows[block],
                         part.rows[block + 1], part.runs + 2 * part.first[block], part.runs + 2 * part.first[block + 1],
                         wide.data(), out + plane * rows.count * columns.count);
        }
    }
}

// Null, or what does not fit.
extern "C" const char* enlarge_float(const float* image, int64_t planes, int64_t h, int64_t w, const Taps<float>* rows,
                                     const Taps<float>* columns, const Region* part, float* out, int64_t threads) {
    if (!fits(*rows, h)) return "rows";
    if (!fits(*columns, w)) return "columns";
    if (!fits(*part, rows->count, columns->count)) return "part";
    enlarge(image, planes, h, w, *rows, *columns, *part, out, threads);
    return nullptr;
}
