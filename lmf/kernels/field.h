// Heat fields: in each latent a sum of sine waves of common frequencies. fields/reference.py is the definition.
//
// On grids no sine is computed for a pixel. A wave's angle is a part of the row plus a part of the column plus the
// latent's phase, so that sines and cosines of the three give the wave by multiplication. Those of columns stay in
// cache for many rows, those of rows and latents for all pixels that share them.
#pragma once
#include <algorithm>
#include <vector>

#include "pages.h"
#include "vector.h"

constexpr int FIELD_LANES = REGISTER / sizeof(float);
constexpr int FIELD_ROWS = 8, FIELD_COLUMNS = 4;        // rows of a job, columns summed side by side
constexpr int64_t FIELD_TABLE = 1 << 15;                // numbers of a table of columns
using FL = Lanes<float, FIELD_LANES>;
using FV = FL::V;

// sin(x) and cos(x) to 1e-6 for |x| up to 8192. The nearest multiple of pi is subtracted in three parts, of which the
// first two are exact; the polynomials of sincospi do the rest.
template <class V>
LMF_INLINE void field_sincos(V x, V& c, V& s) {
    const float round = 12582912.0f, reciprocal = 0.318309886f;  // 1.5 * 2^23; 1 / pi
    const V n = (x * reciprocal + round) - round;
    const V r = ((x - n * 3.140625f) - n * 9.67502593994140625e-4f) - n * 1.509957990978376432e-7f;
    const V odd = n - 2.0f * ((n * 0.5f + round) - round), sign = 1.0f - 2.0f * odd * odd;
    sincospi(r * reciprocal, c, s, float());
    c *= sign;
    s *= sign;
}

LMF_INLINE float total(FV v) {
    float part[FIELD_LANES], sum = 0;
    FL::store(part, v);
    for (int width = FIELD_LANES / 2; width >= 4; width /= 2)
        for (int i = 0; i < width; i++) part[i] += part[i + width];
    for (int i = 0; i < 4; i++) sum += part[i];
    return sum;
}

struct Field {
    int64_t batch, height, width, waves;            // waves is a multiple of 16
    const float *latents, *frequencies, *decay, *base;  // (batch, height, width, 4 waves), (2, waves), (batch, waves), (batch, 3, height, width)

    const float* latent(int64_t image, int64_t at) const {
        return latents + (image * height * width + at) * 4 * waves;
    }
    float colour(int64_t image, int channel, int64_t at) const {
        return base[(image * 3 + channel) * height * width + at];
    }
};

static int64_t clamped(int64_t i, int64_t n) { return std::min(std::max<int64_t>(i, 0), n - 1); }

// Sines, then cosines of all waves at one offset along an axis, times a factor (1 if null).
static void waves_at(const float* frequencies, const float* factor, int64_t waves, float offset, float* table) {
    for (int64_t n = 0; n < waves; n += FIELD_LANES) {
        FV c, s;
        field_sincos(FL::load(frequencies + n) * offset, c, s);
        if (factor) c *= FL::load(factor + n), s *= FL::load(factor + n);
        FL::store(table + n, s);
        FL::store(table + waves + n, c);
    }
}

// Columns start .. stop - 1, and for each its row in a table of the offsets that differ.
struct FieldBlock {
    int64_t start, stop;
    std::vector<float> offsets;
};

static std::vector<FieldBlock> field_blocks(const float* offset, int64_t count, int64_t most, int64_t* slot) {
    std::vector<FieldBlock> blocks;
    for (int64_t j = 0; j < count; j++) {
        if (blocks.empty()) blocks.push_back({0, 0, {}});
        auto* seen = &blocks.back().offsets;
        auto found = std::find(seen->begin(), seen->end(), offset[j]);
        if (found == seen->end()) {
            if (int64_t(seen->size()) == most) {
                blocks.push_back({j, j, {}});
                seen = &blocks.back().offsets;
            }
            seen->push_back(offset[j]);
            found = seen->end() - 1;
        }
        slot[j] = found - seen->begin();
        blocks.back().stop = j + 1;
    }
    return blocks;
}

// The colours of COUNT columns: sums of 6 waves of a row, weighted by the sines and cosines of each column.
template <int COUNT>
LMF_INLINE void field_columns(const float* row, const float* table, const int64_t* slot, int64_t waves, float (*rgb)[3]) {
    FV sum[COUNT][3] = {};
    const float* column[COUNT];
    for (int j = 0; j < COUNT; j++) column[j] = table + 2 * waves * slot[j];
    for (int64_t n = 0; n < waves; n += FIELD_LANES)
        LMF_UNROLL for (int c = 0; c < 3; c++) {
            const FV with_cosine = FL::load(row + 2 * c * waves + n), with_sine = FL::load(row + (2 * c + 1) * waves + n);
            LMF_UNROLL for (int j = 0; j < COUNT; j++) {
                sum[j][c] += FL::load(column[j] + waves + n) * with_cosine;
                sum[j][c] += FL::load(column[j] + n) * with_sine;
            }
        }
    for (int j = 0; j < COUNT; j++)
        for (int c = 0; c < 3; c++) rgb[j][c] = total(sum[j][c]);
}

// What the pixels of a latent share, as amplitudes of the sines and of the cosines of place: (3, 2, waves).
LMF_INLINE void field_latent(const float* own, int64_t waves, float* shared) {
    for (int64_t n = 0; n < waves; n += FIELD_LANES) {
        FV cosine, sine;
        field_sincos(FL::load(own + 3 * waves + n), cosine, sine);
        LMF_UNROLL for (int c = 0; c < 3; c++) {
            const FV amplitude = FL::load(own + c * waves + n);
            FL::store(shared + 2 * c * waves + n, amplitude * cosine);
            FL::store(shared + (2 * c + 1) * waves + n, amplitude * sine);
        }
    }
}

// The same for the pixels of a row in a latent, as amplitudes of the cosines and of the sines of a column.
LMF_INLINE void field_row(const float* shared, const float* sines, int64_t waves, float* mixed) {
    for (int64_t n = 0; n < waves; n += FIELD_LANES) {
        const FV s = FL::load(sines + n), c = FL::load(sines + waves + n);
        LMF_UNROLL for (int channel = 0; channel < 3; channel++) {
            const FV p = FL::load(shared + 2 * channel * waves + n), q = FL::load(shared + (2 * channel + 1) * waves + n);
            FL::store(mixed + 2 * channel * waves + n, s * p + c * q);
            FL::store(mixed + (2 * channel + 1) * waves + n, c * p - s * q);
        }
    }
}

// rgb (batch, 3, H, W); row, column: the latents that hold each row and column, with offsets from their centres.
extern "C" void field_grid(const Field* own, const int64_t* row, const float* row_offset, int64_t H,
                           const int64_t* column, const float* column_offset, int64_t W, float* rgb, int64_t threads) {
    const Field f = *own;
    const int64_t N = f.waves;
    std::vector<int64_t> slot(W), chunks = {0};  // a job's rows share a row of latents
    const auto blocks = field_blocks(column_offset, W, std::max<int64_t>(FIELD_COLUMNS, FIELD_TABLE / N), slot.data());
    for (int64_t i = 1; i <= H; i++)
        if (i == H || row[i] != row[i - 1] || i - chunks.back() == FIELD_ROWS) chunks.push_back(i);
    const int64_t number = blocks.size(), bands = chunks.size() - 1;
    large_pages(rgb, f.batch * 3 * H * W * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> table, rows(FIELD_ROWS * 2 * N), shared(6 * N), mixed(6 * N);
        int64_t held = -1;  // the block whose columns the table holds
#pragma omp for schedule(monotonic : dynamic)
        for (int64_t job = 0; job < number * f.batch * bands; job++) {
            const int64_t at_block = job / (f.batch * bands), b = job / bands % f.batch;
            const int64_t first = chunks[job % bands], last = chunks[job % bands + 1], k = clamped(row[first], f.height);
            const FieldBlock& block = blocks[at_block];
            if (held != at_block) {
                table.resize(2 * N * block.offsets.size());
                for (size_t i = 0; i < block.offsets.size(); i++)
                    waves_at(f.frequencies + N, nullptr, N, block.offsets[i], &table[2 * N * i]);
                held = at_block;
            }
            for (int64_t i = first; i < last; i++)
                waves_at(f.frequencies, f.decay + b * N, N, row_offset[i], &rows[2 * N * (i - first)]);
            for (int64_t j = block.start, stop; j < block.stop; j = stop) {
                stop = j + 1;
                while (stop < block.stop && column[stop] == column[j]) stop++;
                const int64_t at = k * f.width + clamped(column[j], f.width);
                field_latent(f.latent(b, at), N, shared.data());
                for (int64_t i = first; i < last; i++) {
                    field_row(shared.data(), &rows[2 * N * (i - first)], N, mixed.data());
                    for (int64_t start = j, count; start < stop; start += count) {
                        float colours[FIELD_COLUMNS][3];
                        count = std::min<int64_t>(FIELD_COLUMNS, stop - start);
                        const auto sum = count == 4   ? field_columns<4>
                                         : count == 3 ? field_columns<3>
                                         : count == 2 ? field_columns<2>
                                                      : field_columns<1>;
                        sum(mixed.data(), table.data(), &slot[start], N, colours);
                        for (int c = 0; c < 3; c++)
                            for (int64_t l = 0; l < count; l++)
                                rgb[((b * 3 + c) * H + i) * W + start + l] = colours[l][c] + f.colour(b, c, at);
                    }
                }
            }
        }
    }
}

// rgb (batch, queries, 3) at offsets (batch, queries, 2) from the centres of latents index (batch, queries).
extern "C" void field_points(const Field* own, const int64_t* index, const float* offset, int64_t queries, float* rgb,
                             int64_t threads) {
    const Field f = *own;
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads)
    for (int64_t q = 0; q < f.batch * queries; q++) {
        const int64_t b = q / queries, at = clamped(index[q], f.height * f.width), N = f.waves;
        const float *latent = f.latent(b, at), *frequencies = f.frequencies, *decay = f.decay + b * N;
        const float y = offset[2 * q], x = offset[2 * q + 1];
        FV sum[3] = {};
        for (int64_t n = 0; n < N; n += FIELD_LANES) {
            FV cosine, sine;
            field_sincos(FL::load(frequencies + n) * y + FL::load(frequencies + N + n) * x +
                         FL::load(latent + 3 * N + n), cosine, sine);
            sine *= FL::load(decay + n);
            LMF_UNROLL for (int c = 0; c < 3; c++) sum[c] += sine * FL::load(latent + c * N + n);
        }
        for (int c = 0; c < 3; c++) rgb[3 * q + c] = total(sum[c]) + f.colour(b, c, at);
    }
}
