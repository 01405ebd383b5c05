// What the library offers for convolutions: sequences of them, and their weights in the form that they need.
#include "pages.h"
#include "winograd_grad.h"

#ifdef __linux__
#include <unistd.h>
#endif

using namespace winograd;

static int64_t cache_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
    const int64_t found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (found > 0) return found;
#endif
    return 1 << 19;
}

// How many tiles a thread takes at a time: few enough for its cache, and enough for the weights to be worth reading.
static Layout layout(const Convolution& c, int64_t threads) {
    static const int64_t cache = cache_bytes();
    const int64_t fit = cache / 2 * ROWS_AT_ONCE / int64_t(sizeof(float)) / Layout(c.in, c.out, ROWS_AT_ONCE).size();
    const int64_t most = std::min<int64_t>(std::max<int64_t>(fit, 24), 192), tiles = c.tiles();
    const int64_t blocks = round_up((tiles + most - 1) / most, threads);
    return Layout(c.in, c.out, round_up((tiles + blocks - 1) / blocks, ROWS_AT_ONCE));
}

// Runs convolutions one after the other.
extern "C" void convolutions(const Convolution* steps, int64_t count, int64_t threads) {
    int64_t weights = 0, own = 0, channels = 0;
    for (int64_t i = 0; i < count; i++) {
        const Convolution& c = steps[i];
        weights = std::max(weights, weight_size(c.in, c.out));
        own = std::max(own, layout(c, threads).size());
        channels = std::max(channels, c.in);
        large_pages(c.y, ((c.batch * c.height * c.width - 1) * c.y_stride + c.out) * int64_t(sizeof(float)));
    }
    const Memory weight = allocate(weights), zeros = allocate(channels);
    std::fill_n(zeros.get(), channels, 0.0f);
#pragma omp parallel num_threads(threads)
    {
        const Memory memory = allocate(own);
        for (int64_t i = 0; i < count; i++) {
            const Convolution& c = steps[i];
            const Layout to = layout(c, threads);
            const int64_t panels = (c.out + PANEL - 1) / PANEL;
#pragma omp for schedule(static)
            for (int64_t j = 0; j < c.in * panels; j++) transform(c, j / panels, j % panels * PANEL, weight.get());
#pragma omp for schedule(dynamic)
            for (int64_t first = 0; first < c.tiles(); first += to.tiles)
                convolve(c, weight.get(), zeros.get(), to, memory.get(), first);
        }
    }
}

extern "C" void weight_gradient(const Convolution* c, const float* grad, float* result, int64_t threads) {
    weight_sums(*c, grad, result, threads);
}

// Bytes of a vector register: 64 with AVX-512, 32 with AVX2.
extern "C" int64_t register_bytes() { return REGISTER; }

extern "C" int64_t convolution_size() { return sizeof(Convolution); }
