// The cascade's decision on the device. Every integer argument is 64 bits wide; the last is the number of threads.
// In device code compiled by NVRTC this is the runtime's own function.
extern "C" __device__ __cudart_builtin__ void CUDARTAPI cudaGraphSetConditional(cudaGraphConditionalHandle handle,
                                                                                unsigned int value);

// What a decision block holds, as runtime/backends/cuda/cascade.py writes it; PATHS is the first of COUNT.
enum { COUNT, LARGEST, THRESHOLDS, PATHS = 16 };

// The confidence of an exit's answer over the frontier: the mean of its nodes' best candidates weighted by their paths'
// probability, or the largest of them. If it is above the exit's threshold the exit answers; else the next one is asked,
// by setting the condition of the graph's node that holds it (0: there is none, as in the first run and at the last).
extern "C" __global__ void decide(const float *logprobs, long long top_k, const double *decision, long long *answer,
                                  long long exit, cudaGraphConditionalHandle next, long long threads) {
    const double *paths = decision + PATHS;
    long long count = (long long)decision[COUNT];
    double best = paths[0], top = logprobs[0], sum = 0, weighted = 0;
    for (long long i = 1; i < count; i++) {
        best = paths[i] > best ? paths[i] : best;
        top = logprobs[i * top_k] > top ? logprobs[i * top_k] : top;
    }
    for (long long i = 0; i < count; i++) {
        double weight = exp(paths[i] - best);
        sum += weight;
        weighted += weight * exp((double)logprobs[i * top_k]);
    }
    double confidence = decision[LARGEST] != 0 ? exp(top) : weighted / sum;
    *answer = exit;
    if (next) cudaGraphSetConditional(next, !(confidence > decision[THRESHOLDS + exit]));
}
