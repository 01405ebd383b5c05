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

// out (planes, rows.count, columns.count). A row of the source is widened once for all output rows between it and the
// next, so what is left for most pixels is a blend of two rows in cache.
template <class T>
void enlarge(const T* image, int64_t planes, int64_t h, int64_t w, const Taps<T>& rows, const Taps<T>& columns, T* out,
             int64_t threads) {
    const int64_t width = columns.count, stretch = 64, stretches = (rows.count + stretch - 1) / stretch;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t job = 0; job < planes * stretches; job++) {
        const int64_t plane = job / stretches, begin = job % stretches * stretch;
        std::vector<T> wide[2] = {std::vector<T>(width), std::vector<T>(width)};
        int64_t held[2] = {-1, -1};
        const auto widened = [&](int64_t row, int64_t keep) {  // where it is; row `keep` stays
            if (held[0] == row || held[1] == row) return held[0] == row ? 0 : 1;
            const int slot = held[0] == keep ? 1 : 0;
            const T* line = image + (plane * h + row) * w;
            for (int64_t j = 0; j < width; j++) {
                const T left = line[columns.first[j]];
                wide[slot][j] = left + columns.weight[j] * (line[columns.second[j]] - left);
            }
            held[slot] = row;
            return slot;
        };
        for (int64_t i = begin; i < std::min(begin + stretch, rows.count); i++) {
            const T* above = wide[widened(rows.first[i], rows.second[i])].data();
            const T* below = wide[widened(rows.second[i], rows.first[i])].data();
            const T weight = rows.weight[i];
            T* line = out + (plane * rows.count + i) * width;
            for (int64_t j = 0; j < width; j++) line[j] = above[j] + weight * (below[j] - above[j]);
        }
    }
}

extern "C" void enlarge_float(const float* image, const int64_t* above, const int64_t* below, const float* down,
                              const int64_t* left, const int64_t* right, const float* along, float* out, int64_t planes,
                              int64_t h, int64_t w, int64_t H, int64_t W, int64_t threads) {
    enlarge(image, planes, h, w, Taps<float>{above, below, down, H}, Taps<float>{left, right, along, W}, out, threads);
}
