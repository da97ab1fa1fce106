/* refusals DRAFT TARGET OTHER_TOKENIZER_DRAFT: every mistake is an error with a line that says what to do. */
#include "check.h"

static int never(const s2d_step *step, void *user_data)
{
    (void)step;
    (void)user_data;
    return 0;
}

static void check_null(s2d_target *target)
{
    s2d_request *request = NULL;
    s2d_options options;
    const s2d_step *step;
    s2d_stats stats;
    s2d_target_facts facts;
    s2d_draft *draft;
    s2d_target *other;
    s2d_message message = {"user", NULL};
    const char *const texts[] = {NULL};
    size_t count;
    int32_t token = 1;
    char text[8];
    FAILS(s2d_draft_open(NULL, &draft), S2D_ERROR_ARGUMENT, "path is NULL");
    FAILS(s2d_draft_open("x", NULL), S2D_ERROR_ARGUMENT, "draft is NULL");
    FAILS(s2d_target_open(NULL, NULL, &other), S2D_ERROR_ARGUMENT, "path is NULL");
    FAILS(s2d_target_open("x", NULL, NULL), S2D_ERROR_ARGUMENT, "target is NULL");
    FAILS(s2d_target_info(NULL, &facts, sizeof facts), S2D_ERROR_ARGUMENT, "target is NULL");
    FAILS(s2d_target_info(target, NULL, sizeof facts), S2D_ERROR_ARGUMENT, "NULL");
    FAILS(s2d_tokenize(NULL, "a", 0, &token, 1, &count), S2D_ERROR_ARGUMENT, "target");
    FAILS(s2d_tokenize(target, NULL, 0, &token, 1, &count), S2D_ERROR_ARGUMENT, "text");
    FAILS(s2d_tokenize(target, "a", 0, NULL, 1, &count), S2D_ERROR_ARGUMENT, "tokens");
    FAILS(s2d_tokenize(target, "a", 0, &token, 1, NULL), S2D_ERROR_ARGUMENT, "count");
    FAILS(s2d_detokenize(NULL, &token, 1, text, 8, &count), S2D_ERROR_ARGUMENT, "target");
    FAILS(s2d_detokenize(target, NULL, 1, text, 8, &count), S2D_ERROR_ARGUMENT, "tokens");
    FAILS(s2d_detokenize(target, &token, 1, NULL, 8, &count), S2D_ERROR_ARGUMENT, "text");
    FAILS(s2d_detokenize(target, &token, 1, text, 8, NULL), S2D_ERROR_ARGUMENT, "length");
    FAILS(s2d_chat_render(NULL, &message, 1, text, 8, &count), S2D_ERROR_ARGUMENT, "target");
    FAILS(s2d_chat_render(target, NULL, 1, text, 8, &count), S2D_ERROR_ARGUMENT, "messages");
    FAILS(s2d_chat_render(target, &message, 1, text, 8, &count), S2D_ERROR_ARGUMENT, "message 0");
    FAILS(s2d_params_default(NULL, 8), S2D_ERROR_ARGUMENT, "s2d_params is NULL");
    FAILS(s2d_options_default(NULL, 8), S2D_ERROR_ARGUMENT, "s2d_options is NULL");
    FAILS(s2d_request_create(NULL, "a", NULL, &request), S2D_ERROR_ARGUMENT, "target is NULL");
    FAILS(s2d_request_create(target, NULL, NULL, &request), S2D_ERROR_ARGUMENT, "prompt is NULL");
    FAILS(s2d_request_create(target, "a", NULL, NULL), S2D_ERROR_ARGUMENT, "request is NULL");
    FAILS(s2d_request_create_tokens(target, NULL, 1, NULL, &request), S2D_ERROR_ARGUMENT, "prompt is NULL");
    s2d_options_default(&options, sizeof options);
    options.stop = texts;
    options.stop_count = 1;
    FAILS(s2d_request_create(target, "a", &options, &request), S2D_ERROR_ARGUMENT, "stop[0] is NULL");
    options.stop = NULL;
    FAILS(s2d_request_create(target, "a", &options, &request), S2D_ERROR_ARGUMENT, "stop is NULL");
    FAILS(s2d_request_next(NULL, 0, &step), S2D_ERROR_ARGUMENT, "request is NULL");
    FAILS(s2d_request_run(NULL, never, NULL), S2D_ERROR_ARGUMENT, "request is NULL");
    CHECK(s2d_request_cancel(NULL) == S2D_ERROR_ARGUMENT);
    FAILS(s2d_request_stats(NULL, &stats, sizeof stats), S2D_ERROR_ARGUMENT, "request is NULL");
    request = submit(target, "a", 1);
    FAILS(s2d_request_next(request, 0, NULL), S2D_ERROR_ARGUMENT, "step is NULL");
    FAILS(s2d_request_run(request, NULL, NULL), S2D_ERROR_ARGUMENT, "callback is NULL");
    FAILS(s2d_request_stats(request, NULL, sizeof stats), S2D_ERROR_ARGUMENT, "NULL");
    s2d_request_free(request);
    s2d_request_free(NULL);
    s2d_target_close(NULL);
    s2d_draft_close(NULL);
}

/* Hosts with an older header pass smaller structs, those with a newer one larger ones. */
static void check_sizes(s2d_target *target)
{
    struct {
        s2d_options known;
        double unknown;
    } newer;
    struct {
        size_t size;
        int32_t max_new_tokens;
    } older = {sizeof older, 3};
    s2d_options options;
    s2d_request *request;
    OK(s2d_request_create(target, "a", (const s2d_options *)&older, &request));
    CHECK(drain(request) == 3);
    s2d_request_free(request);
    memset(&newer, 0xff, sizeof newer);
    OK(s2d_options_default(&newer.known, sizeof newer));
    newer.known.max_new_tokens = 2;
    CHECK(newer.known.size == sizeof newer && newer.unknown == 0.0);
    OK(s2d_request_create(target, "a", &newer.known, &request));
    CHECK(drain(request) == 2);
    s2d_request_free(request);
    newer.unknown = 1.0;
    FAILS(s2d_request_create(target, "a", &newer.known, &request), S2D_ERROR_ARGUMENT, "newer");
    memset(&options, 0, sizeof options);
    FAILS(s2d_request_create(target, "a", &options, &request), S2D_ERROR_ARGUMENT, "s2d_options_default");
    FAILS(s2d_options_default(&options, 0), S2D_ERROR_ARGUMENT, "size");
}

/* Also after Python has been started for one that failed. */
static void check_params(void)
{
    s2d_params params;
    FAILS(s2d_params_default(&params, 3), S2D_ERROR_ARGUMENT, "size");
    OK(s2d_params_default(&params, sizeof params));
    params.size = 3;
    FAILS(s2d_init(&params), S2D_ERROR_ARGUMENT, "s2d_params_default");
    OK(s2d_params_default(&params, sizeof params));
    params.sequences = 0;
    FAILS(s2d_init(&params), S2D_ERROR_ARGUMENT, "at least 1");
    OK(s2d_params_default(&params, sizeof params));
    params.prefix_bytes = -1;
    FAILS(s2d_init(&params), S2D_ERROR_ARGUMENT, "prefix_bytes");
    OK(s2d_params_default(&params, sizeof params));
    params.device = "tpu";
    FAILS(s2d_init(&params), S2D_ERROR_ARGUMENT, "tpu");
}

int main(int argc, char **argv)
{
    s2d_draft *draft, *foreign;
    s2d_target *target, *other;
    s2d_request *request;
    s2d_options options;
    const double thresholds[2] = {0.5, 0.0};
    int32_t token = 5000;
    size_t length;
    char text[8], *longest;
    s2d_message message = {"user", "a"};
    CHECK(argc == 4);
    check_params();
    OK(s2d_init(NULL));
    OK(s2d_draft_open(argv[1], &draft));
    OK(s2d_target_open(argv[2], draft, &target));
    check_null(target);
    check_sizes(target);

    FAILS(s2d_draft_open("no such draft", &draft), S2D_ERROR_BUNDLE, "no such draft");
    CHECK(!draft);
    FAILS(s2d_target_open("no such target", NULL, &other), S2D_ERROR_BUNDLE, "no such target");
    FAILS(s2d_draft_open("caf\xe9", &draft), S2D_ERROR_ARGUMENT, "UTF-8");
    OK(s2d_draft_open(argv[3], &foreign));
    FAILS(s2d_target_open(argv[2], foreign, &other), S2D_ERROR_MISMATCH, "tokenizer");
    s2d_draft_close(foreign);

    s2d_options_default(&options, sizeof options);
    options.temperature = -1.0;
    FAILS(s2d_request_create(target, "a", &options, &request), S2D_ERROR_ARGUMENT, "temperature -1.0");
    CHECK(!request);
    s2d_options_default(&options, sizeof options);
    options.thresholds = thresholds;
    options.threshold_count = 2;
    FAILS(s2d_request_create(target, "a", &options, &request), S2D_ERROR_ARGUMENT, "thresholds");
    s2d_options_default(&options, sizeof options);
    options.constraint = "[ab]";
    FAILS(s2d_request_create(target, "a", &options, &request), S2D_ERROR_ARGUMENT, "belong together");
    options.constraint_kind = "poem";
    FAILS(s2d_request_create(target, "a", &options, &request), S2D_ERROR_ARGUMENT, "constraint poem is unknown");
    FAILS(s2d_request_create(target, "\xff", NULL, &request), S2D_ERROR_ARGUMENT, "not UTF-8 (byte 0)");
    FAILS(s2d_request_create_tokens(target, &token, 1, NULL, &request), S2D_ERROR_ARGUMENT, "5000");
    FAILS(s2d_request_create_tokens(target, &token, 0, NULL, &request), S2D_ERROR_ARGUMENT, "empty");
    FAILS(s2d_detokenize(target, &token, 1, text, 8, &length), S2D_ERROR_ARGUMENT, "5000");
    FAILS(s2d_chat_render(target, &message, 1, text, 8, &length), S2D_ERROR_BUNDLE, "no chat template");
    longest = malloc(1000001);
    memset(longest, 'a', 1000000);
    longest[1000000] = 0;
    FAILS(s2d_request_create(target, longest, NULL, &request), S2D_ERROR_CAPACITY, "max-length");
    free(longest);
    CHECK(strcmp(s2d_status_name(S2D_ERROR_BUNDLE), "S2D_ERROR_BUNDLE") == 0);
    CHECK(strcmp(s2d_status_name(99), "unknown status") == 0);
    OK(s2d_shutdown());

    /* What is left of before: to give back, and for nothing else. */
    FAILS(s2d_request_create(target, "a", NULL, &request), S2D_ERROR_STATE, "shut down");
    s2d_target_close(target);
    return 0;
}
