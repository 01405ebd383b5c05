// The picture that is added, enlarged bilinearly, to what the MLP renders.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

// Border repeated. Nothing if it is null.
template <class T>
struct Skip {
    const T* image;  // (batch, 3, height, width)
    int64_t height, width;
    std::vector<int64_t> first, second;  // for each column the two around it
    std::vector<T> weight;               // of the second
    bool ordered = true;                 // whether first and second ascend

    Skip(const T* image, int64_t height, int64_t width, const T* x, int64_t W)
        : image(image), height(height), width(width) {
        if (!image) return;
        first.resize(W), second.resize(W), weight.resize(W);
        for (int64_t j = 0; j < W; j++) sample(x[j], width, first[j], second[j], weight[j]);
        ordered = std::is_sorted(first.begin(), first.end());
    }

    static void sample(T c, int64_t n, int64_t& first, int64_t& second, T& weight) {
        const T at = std::min(std::max(T(0), ((c + 1) * n - 1) / 2), T(n - 1));  // in this order NaN becomes 0
        first = int64_t(at), second = std::min(first + 1, n - 1), weight = at - first;
    }

    // To the runs of one row at y, in three planes. `between` has room for a row of the picture.
    void add(int64_t number, T y, const int64_t* runs, const int64_t* end, T* __restrict between, T* line,
             int64_t plane) const {
        if (!image) return;
        int64_t top, bottom;
        T down;
        sample(y, height, top, bottom, down);
        for (int c = 0; c < 3; c++) {
            const T* from = image + (number * 3 + c) * height * width;
            const T *above = from + top * width, *below = from + bottom * width;
            T* __restrict to = line + c * plane;
            for (const int64_t* run = runs; run < end; run += 2) {
                if (run[0] == run[1]) continue;
                const int64_t start = ordered ? first[run[0]] : 0, stop = ordered ? second[run[1] - 1] + 1 : width;
                for (int64_t j = start; j < stop; j++)
                    between[j] = above[j] + down * (below[j] - above[j]);
                for (int64_t j = run[0]; j < run[1]; j++) {
                    const T left = between[first[j]];
                    to[j] += left + weight[j] * (between[second[j]] - left);
                }
            }
        }
    }
};
