/* generate DRAFT TARGET PROMPT: the texts of several requests that run at the same time, each followed by a line of facts. */
#include "check.h"

static const char *const STOP[] = {"zz", "sed"};
static const char *const BAD[] = {"tree"};
static const int32_t STOP_TOKENS[] = {120};
static const s2d_bias BIAS[] = {{101, 3.5}, {105, -100.0}};

static void choose(s2d_options *options, int which)
{
    options->max_new_tokens = 40;
    options->has_seed = 1;
    options->seed = 7;
    options->temperature = which ? 1.0 : 0.0;
    if (which == 2) {
        options->top_k = 40;
        options->top_p = 0.9;
        options->min_p = 0.01;
        options->repetition_penalty = 1.1;
        options->frequency_penalty = 0.5;
        options->presence_penalty = 0.25;
        options->logit_bias = BIAS;
        options->logit_bias_count = 2;
        options->bad_words = BAD;
        options->bad_word_count = 1;
        options->min_tokens = 5;
    }
    if (which == 3) {
        options->stop = STOP;
        options->stop_count = 2;
        options->stop_token_ids = STOP_TOKENS;
        options->stop_token_id_count = 1;
        options->ignore_eos = 1;
        options->seed = 18446744073709551615u;
    }
    if (which == 5) {
        options->constraint_kind = "regex";
        options->constraint = "[ab]{3,8}";
    }
    if (which == 4) {
        options->draft = 0;
        options->exact = 1;
        options->special_tokens = 0;
    }
}

int main(int argc, char **argv)
{
    enum { REQUESTS = 6 };
    s2d_draft *draft;
    s2d_target *target;
    s2d_request *requests[REQUESTS];
    int at;
    CHECK(argc == 4);
    OK(s2d_init(NULL));
    OK(s2d_draft_open(argv[1], &draft));
    OK(s2d_target_open(argv[2], draft, &target));
    for (at = 0; at < REQUESTS; at++) {
        s2d_options options;
        s2d_options_default(&options, sizeof options);
        choose(&options, at);
        OK(s2d_request_create(target, argv[3], &options, &requests[at]));
    }
    s2d_target_close(target); /* its requests go on */
    s2d_draft_close(draft);
    for (at = 0; at < REQUESTS; at++) {
        const s2d_step *step;
        s2d_stats stats;
        int status;
        while ((status = s2d_request_next(requests[at], -1, &step)) == S2D_OK)
            fwrite(step->text, 1, step->text_length, stdout);
        CHECK(status == S2D_END);
        CHECK(s2d_request_next(requests[at], -1, &step) == S2D_END);
        OK(s2d_request_stats(requests[at], &stats, sizeof stats));
        printf("\n%d %d %d %d\n", (int)stats.prompt_tokens, (int)stats.new_tokens, stats.finish, stats.exact);
        s2d_request_free(requests[at]);
    }
    OK(s2d_shutdown());
    return 0;
}
