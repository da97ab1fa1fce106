/* steps DRAFT TARGET PROMPT: what a step tells of its tokens. */
#include "check.h"

struct seen {
    size_t steps, tokens, drafted, stop_after;
};

static int count(const s2d_step *step, void *user_data)
{
    struct seen *seen = user_data;
    seen->tokens += step->token_count;
    return ++seen->steps == seen->stop_after;
}

static void check_logprobs(const s2d_step *step, size_t asked)
{
    size_t token, top;
    CHECK(step->top_count == asked && step->logprobs);
    for (token = 0; token < step->token_count; token++) {
        CHECK(step->logprobs[token] <= 0.0);
        for (top = 0; top < asked; top++)
            CHECK(step->top_tokens[token * asked + top] >= 0);
        /* A greedy token is the best one. */
        CHECK(step->top_tokens[token * asked] == step->tokens[token]);
        CHECK(step->top_logprobs[token * asked] == step->logprobs[token]);
        CHECK(step->top_logprobs[token * asked] >= step->top_logprobs[token * asked + 1]);
    }
}

int main(int argc, char **argv)
{
    s2d_draft *draft;
    s2d_target *target;
    s2d_request *request;
    const double thresholds[3] = {0.0, 0.0, 0.0};
    s2d_options options;
    s2d_stats stats;
    s2d_target_facts facts;
    const s2d_step *step;
    struct seen seen = {0, 0, 0, 0};
    int32_t tokens[64];
    size_t count_of, length;
    char text[64];
    CHECK(argc == 4);
    OK(s2d_init(NULL));
    OK(s2d_draft_open(argv[1], &draft));
    OK(s2d_target_open(argv[2], draft, &target));

    OK(s2d_target_info(target, &facts, sizeof facts));
    CHECK(strcmp(facts.name, "target") == 0 && facts.vocab_size == 300 && facts.max_length == 256);
    CHECK(facts.drafted && facts.exact && !facts.chat);

    /* Tokens, drafted flags, ends and log-probabilities. */
    s2d_options_default(&options, sizeof options);
    options.max_new_tokens = 30;
    options.logprobs = 2;
    options.thresholds = thresholds; /* the adaptive policy may draft nothing */
    options.threshold_count = 3;
    OK(s2d_request_create(target, argv[3], &options, &request));
    while (s2d_request_next(request, -1, &step) == S2D_OK) {
        size_t token;
        CHECK(step->size == sizeof *step && step->text[step->text_length] == 0);
        for (token = 0; token < step->token_count; token++) {
            CHECK(step->drafted[token] == 0 || step->drafted[token] == 1);
            CHECK(step->text_ends[token] <= step->text_length);
            CHECK(token == 0 || step->text_ends[token - 1] <= step->text_ends[token]);
            seen.drafted += step->drafted[token];
        }
        seen.tokens += step->token_count;
        check_logprobs(step, 2);
    }
    OK(s2d_request_stats(request, &stats, sizeof stats));
    CHECK(seen.tokens == 30 && stats.new_tokens == 30 && stats.finish == S2D_FINISH_LENGTH);
    CHECK(seen.drafted > 0 && stats.accepted_tokens == (int64_t)seen.drafted);
    CHECK(stats.total > 0.0 && stats.verify > 0.0 && stats.prefill > 0.0 && stats.steps > 0);
    s2d_request_free(request);

    /* Without asking there are none. */
    request = submit(target, argv[3], 4);
    OK(s2d_request_next(request, -1, &step));
    CHECK(!step->logprobs && !step->top_count);
    s2d_request_free(request);

    /* A callback sees the same, and ends the text with its result. */
    request = submit(target, argv[3], 30);
    memset(&seen, 0, sizeof seen);
    OK(s2d_request_run(request, count, &seen));
    CHECK(seen.tokens == 30);
    s2d_request_free(request);
    request = submit(target, argv[3], 200);
    memset(&seen, 0, sizeof seen);
    seen.stop_after = 2;
    OK(s2d_request_run(request, count, &seen));
    CHECK(finish_of(request) == S2D_FINISH_CANCELLED && seen.tokens < 200);
    s2d_request_free(request);

    /* Time limits: none yet, and then all. */
    request = submit(target, argv[3], 200);
    CHECK(s2d_request_next(request, 0, &step) == S2D_TIMEOUT);
    while (s2d_request_next(request, 1, &step) == S2D_TIMEOUT)
        continue;
    CHECK(step->token_count > 0 && finish_of(request) == S2D_RUNNING);
    s2d_request_free(request); /* cancels it */

    /* Tokens and back; buffers that are too small. */
    FAILS(s2d_tokenize(target, "a tree", 0, NULL, 0, &count_of), S2D_ERROR_BUFFER, "buffer holds 0");
    CHECK(count_of > 0 && count_of <= 6);
    OK(s2d_tokenize(target, "a tree", 0, tokens, 64, &count_of));
    OK(s2d_detokenize(target, tokens, count_of, text, sizeof text, &length));
    CHECK(strcmp(text, "a tree") == 0 && length == 6);
    FAILS(s2d_detokenize(target, tokens, count_of, text, 6, &length), S2D_ERROR_BUFFER, "7 bytes");
    CHECK(length == 6);
    OK(s2d_tokenize(target, "", 1, tokens, 64, &count_of));
    CHECK(count_of == 1 && tokens[0] == 0);
    OK(s2d_detokenize(target, NULL, 0, text, sizeof text, &length));
    CHECK(length == 0);

    /* A prompt of tokens gives the same text as the text. */
    OK(s2d_tokenize(target, argv[3], 1, tokens, 64, &count_of));
    OK(s2d_request_create_tokens(target, tokens, count_of, NULL, &request));
    OK(s2d_request_stats(request, &stats, sizeof stats));
    CHECK(drain(request) == 128 || finish_of(request) == S2D_FINISH_STOP);
    s2d_request_free(request);

    s2d_target_close(target);
    s2d_draft_close(draft);
    OK(s2d_shutdown());
    return 0;
}
