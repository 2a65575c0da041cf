// The selective scan and its gradient (selective_scan.py has the mathematics). One task is one row of the batch and a
// block of channels: its state stays in the first-level cache. Time is outermost within a task. The backward pass
// starts each chunk from a kept state and computes the states within it again.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

namespace {

constexpr int64_t BLOCK = 16;

// exp(x) to about 2 units in the last place, without branches, so that any compiler vectorises it.
inline float exponential(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    const float whole = std::rint(x * 1.44269504f);
    const float r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float p = 1.9841270e-4f;
    p = p * r + 1.3888889e-3f;
    p = p * r + 8.3333333e-3f;
    p = p * r + 4.1666667e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(whole) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

template <class Task> void for_each_task(int64_t tasks, int64_t threads, Task task) {
    std::atomic<int64_t> next{0};
    auto work = [&] { for (int64_t i; (i = next.fetch_add(1)) < tasks;) task(i); };
    std::vector<std::thread> others;
    try {
        for (int64_t i = 1; i < std::min(threads, tasks); i++) others.emplace_back(work);
    } catch (const std::system_error&) {}  // no thread to be had: those there are do it all
    work();
    for (auto& thread : others) thread.join();
}

struct Shape { int64_t batch, length, channels, states, chunk, threads; };

// STATES is the number of states where it is known to the compiler, or 0.
template <int STATES> struct Scan {
    static void forward(const float* u, const float* dt, const float* A, const float* B, const float* C, const float* first,
                        float* y, float* last, float* starts, Shape s) {
        const int64_t N = STATES ? STATES : s.states, D = s.channels, L = s.length, blocks = (D + BLOCK - 1) / BLOCK;
        for_each_task(s.batch * blocks, s.threads, [&](int64_t task) {
            const int64_t b = task / blocks, d0 = task % blocks * BLOCK, width = std::min(BLOCK, D - d0);
            std::vector<float> state(first + (b * D + d0) * N, first + (b * D + d0 + width) * N);
            for (int64_t t = 0; t < L; t++) {
                if (t % s.chunk == 0)
                    std::copy(state.begin(), state.end(), starts + ((t / s.chunk * s.batch + b) * D + d0) * N);
                const float *B_t = B + (b * L + t) * N, *C_t = C + (b * L + t) * N;
                for (int64_t d = 0; d < width; d++) {
                    const int64_t at = (b * L + t) * D + d0 + d;
                    const float step = dt[at], input = step * u[at];
                    const float* a = A + (d0 + d) * N;
                    float *h = &state[d * N], sum = 0;
                    #pragma omp simd reduction(+ : sum)
                    for (int64_t n = 0; n < N; n++) {
                        h[n] = exponential(step * a[n]) * h[n] + input * B_t[n];
                        sum += h[n] * C_t[n];
                    }
                    y[at] = sum;
                }
            }
            std::copy(state.begin(), state.end(), last + (b * D + d0) * N);
        });
    }

    static void backward(const float* u, const float* dt, const float* A, const float* B, const float* C, const float* starts,
                         const float* grad_y, const float* grad_last, float* grad_u, float* grad_dt, float* parts_A,
                         float* parts_B, float* parts_C, float* grad_first, Shape s) {
        const int64_t N = STATES ? STATES : s.states, D = s.channels, L = s.length, blocks = (D + BLOCK - 1) / BLOCK;
        const int64_t chunks = (L + s.chunk - 1) / s.chunk, row = BLOCK * N;
        for_each_task(s.batch * blocks, s.threads, [&](int64_t task) {
            const int64_t b = task / blocks, block = task % blocks, d0 = block * BLOCK, width = std::min(BLOCK, D - d0);
            std::vector<float> decays(s.chunk * row), states((s.chunk + 1) * row);
            std::vector<float> adjoint(grad_last + (b * D + d0) * N, grad_last + (b * D + d0 + width) * N);
            std::vector<float> grad_A(width * N, 0.0f);
            for (int64_t c = chunks - 1; c >= 0; c--) {
                const int64_t begin = c * s.chunk, end = std::min(L, begin + s.chunk);
                const float* start = starts + ((c * s.batch + b) * D + d0) * N;
                std::copy(start, start + width * N, states.begin());
                for (int64_t t = begin; t < end; t++) {
                    const float *B_t = B + (b * L + t) * N, *before = &states[(t - begin) * row];
                    float *after = &states[(t - begin + 1) * row], *decay = &decays[(t - begin) * row];
                    for (int64_t d = 0; d < width; d++) {
                        const int64_t at = (b * L + t) * D + d0 + d;
                        const float step = dt[at], input = step * u[at];
                        const float* a = A + (d0 + d) * N;
                        #pragma omp simd
                        for (int64_t n = 0; n < N; n++) {
                            decay[d * N + n] = exponential(step * a[n]);
                            after[d * N + n] = decay[d * N + n] * before[d * N + n] + input * B_t[n];
                        }
                    }
                }
                for (int64_t t = end - 1; t >= begin; t--) {
                    const float *B_t = B + (b * L + t) * N, *C_t = C + (b * L + t) * N;
                    float *grad_B = parts_B + ((b * blocks + block) * L + t) * N;
                    float *grad_C = parts_C + ((b * blocks + block) * L + t) * N;
                    const float *before = &states[(t - begin) * row], *after = before + row, *decay = &decays[(t - begin) * row];
                    std::fill(grad_B, grad_B + N, 0.0f);
                    std::fill(grad_C, grad_C + N, 0.0f);
                    for (int64_t d = 0; d < width; d++) {
                        const int64_t at = (b * L + t) * D + d0 + d;
                        const float step = dt[at], x = u[at], input = step * x, out = grad_y[at];
                        const float *a = A + (d0 + d) * N, *h0 = before + d * N, *h1 = after + d * N, *w = decay + d * N;
                        float *g = &adjoint[d * N], *gA = &grad_A[d * N], of_input = 0, of_step = 0;
                        #pragma omp simd reduction(+ : of_input, of_step)
                        for (int64_t n = 0; n < N; n++) {
                            const float here = g[n] + out * C_t[n];
                            grad_C[n] += out * h1[n];
                            grad_B[n] += here * input;
                            of_input += here * B_t[n];
                            g[n] = here * w[n];
                            const float of_exponent = g[n] * h0[n];
                            of_step += of_exponent * a[n];
                            gA[n] += of_exponent * step;
                        }
                        grad_u[at] = of_input * step;
                        grad_dt[at] = of_step + of_input * x;
                    }
                }
            }
            std::copy(adjoint.begin(), adjoint.end(), grad_first + (b * D + d0) * N);
            std::copy(grad_A.begin(), grad_A.end(), parts_A + (b * D + d0) * N);
        });
    }
};

}  // namespace

extern "C" {

int64_t selective_scan_block() { return BLOCK; }

void selective_scan_forward(const float* u, const float* dt, const float* A, const float* B, const float* C, const float* first,
                            float* y, float* last, float* starts, int64_t batch, int64_t length, int64_t channels,
                            int64_t states, int64_t chunk, int64_t threads) {
    const Shape s{batch, length, channels, states, chunk, threads};
    auto run = states == 16 ? Scan<16>::forward : states == 64 ? Scan<64>::forward : Scan<0>::forward;
    run(u, dt, A, B, C, first, y, last, starts, s);
}

void selective_scan_backward(const float* u, const float* dt, const float* A, const float* B, const float* C, const float* starts,
                             const float* grad_y, const float* grad_last, float* grad_u, float* grad_dt, float* parts_A,
                             float* parts_B, float* parts_C, float* grad_first, int64_t batch, int64_t length,
                             int64_t channels, int64_t states, int64_t chunk, int64_t threads) {
    const Shape s{batch, length, channels, states, chunk, threads};
    auto run = states == 16 ? Scan<16>::backward : states == 64 ? Scan<64>::backward : Scan<0>::backward;
    run(u, dt, A, B, C, starts, grad_y, grad_last, grad_u, grad_dt, parts_A, parts_B, parts_C, grad_first, s);
}

}
