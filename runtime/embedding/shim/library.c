/* Drafts, targets, text and requests: the host's arguments are checked here; the work is Python's (bridge.py). */
#include "shim.h"

#include <stdlib.h>

struct s2d_draft {
    uint64_t id;
};

struct s2d_target {
    uint64_t id;
    s2d_target_facts facts;
};

static int null(const char *name)
{
    return report(S2D_ERROR_ARGUMENT, "%s is NULL", name);
}

/* ---- drafts and targets ---- */

int s2d_draft_open(const char *path, s2d_draft **draft)
{
    int status;
    s2d_draft *made;
    if (!draft)
        return null("draft");
    *draft = NULL;
    if (!path)
        return null("path");
    if ((status = enter()) != S2D_OK)
        return status;
    if (!(made = calloc(1, sizeof *made)))
        return leave(report(S2D_ERROR_MEMORY, "no memory for a draft"));
    status = done(python_draft_open(path, &made->id));
    if (status == S2D_OK)
        *draft = made;
    else
        free(made);
    return leave(status);
}

static void close_id(uint64_t id)
{
    if (enter() != S2D_OK)
        return; /* shutdown has closed it */
    python_close(id);
    leave(S2D_OK);
}

void s2d_draft_close(s2d_draft *draft)
{
    if (draft)
        close_id(draft->id);
    free(draft);
}

int s2d_target_open(const char *path, const s2d_draft *draft, s2d_target **target)
{
    int status;
    s2d_target *made;
    if (!target)
        return null("target");
    *target = NULL;
    if (!path)
        return null("path");
    if ((status = enter()) != S2D_OK)
        return status;
    if (!(made = calloc(1, sizeof *made)))
        return leave(report(S2D_ERROR_MEMORY, "no memory for a target"));
    made->facts.size = sizeof made->facts;
    status = done(python_target_open(path, draft ? draft->id : 0, &made->id, &made->facts));
    shut_down_at_exit();
    if (status == S2D_OK)
        *target = made;
    else
        free(made);
    return leave(status);
}

void s2d_target_close(s2d_target *target)
{
    if (target)
        close_id(target->id);
    free(target);
}

int s2d_target_info(const s2d_target *target, s2d_target_facts *facts, size_t size)
{
    int status;
    if (!target)
        return null("target");
    if ((status = enter()) != S2D_OK)
        return status;
    return leave(write_struct(facts, size, &target->facts, sizeof target->facts, "s2d_target_facts"));
}

/* ---- text ---- */

int s2d_tokenize(const s2d_target *target, const char *text, int special_tokens, int32_t *tokens, size_t capacity,
                 size_t *count)
{
    int status;
    if (!target || !text || !count || (!tokens && capacity))
        return null(!target ? "target" : !text ? "text" : !count ? "count" : "tokens");
    *count = 0;
    if ((status = enter()) != S2D_OK)
        return status;
    return leave(done(python_tokenize(target->id, text, special_tokens, tokens, capacity, count)));
}

int s2d_detokenize(const s2d_target *target, const int32_t *tokens, size_t count, char *text, size_t capacity,
                   size_t *length)
{
    int status;
    text_buffer buffer = {text, capacity, 0};
    if (!target || (!tokens && count) || !length || (!text && capacity))
        return null(!target ? "target" : !tokens && count ? "tokens" : !length ? "length" : "text");
    *length = 0;
    if ((status = enter()) != S2D_OK)
        return status;
    status = done(python_detokenize(target->id, tokens, count, &buffer));
    *length = buffer.length;
    return leave(status);
}

int s2d_chat_render(const s2d_target *target, const s2d_message *messages, size_t count, char *text, size_t capacity,
                    size_t *length)
{
    int status;
    size_t at;
    text_buffer buffer = {text, capacity, 0};
    if (!target || (!messages && count) || !length || (!text && capacity))
        return null(!target ? "target" : !messages && count ? "messages" : !length ? "length" : "text");
    for (at = 0; at < count; at++)
        if (!messages[at].role || !messages[at].content)
            return report(S2D_ERROR_ARGUMENT, "message %zu has no role or no content", at);
    *length = 0;
    if ((status = enter()) != S2D_OK)
        return status;
    status = done(python_chat_render(target->id, messages, count, &buffer));
    *length = buffer.length;
    return leave(status);
}

/* ---- requests ---- */

static int check_list(const void *list, size_t count, const char *name)
{
    return count && !list ? report(S2D_ERROR_ARGUMENT, "s2d_options.%s is NULL and its count is not 0", name) : S2D_OK;
}

static int check_texts(const char *const *texts, size_t count, const char *name)
{
    size_t at;
    if (check_list(texts, count, name) != S2D_OK)
        return S2D_ERROR_ARGUMENT;
    for (at = 0; at < count; at++)
        if (!texts[at])
            return report(S2D_ERROR_ARGUMENT, "s2d_options.%s[%zu] is NULL", name, at);
    return S2D_OK;
}

static int check_options(const s2d_options *options)
{
    if (!options->constraint_kind != !options->constraint)
        return report(S2D_ERROR_ARGUMENT, "s2d_options: constraint and constraint_kind belong together; give both");
    if (check_list(options->logit_bias, options->logit_bias_count, "logit_bias") != S2D_OK ||
        check_list(options->stop_token_ids, options->stop_token_id_count, "stop_token_ids") != S2D_OK ||
        check_list(options->thresholds, options->threshold_count, "thresholds") != S2D_OK ||
        check_texts(options->bad_words, options->bad_word_count, "bad_words") != S2D_OK ||
        check_texts(options->stop, options->stop_count, "stop") != S2D_OK)
        return S2D_ERROR_ARGUMENT;
    return S2D_OK;
}

static int submit(const s2d_target *target, const char *prompt, const int32_t *tokens, size_t count,
                  const s2d_options *options, s2d_request **request)
{
    s2d_options own = default_options;
    s2d_request *made;
    int status;
    if (!request)
        return null("request");
    *request = NULL;
    if (!target)
        return null("target");
    if (!prompt && !tokens)
        return null("the prompt");
    if (options && (status = read_struct(&own, sizeof own, options, "s2d_options")) != S2D_OK)
        return status;
    if ((status = check_options(&own)) != S2D_OK || (status = enter()) != S2D_OK)
        return status;
    if (!(made = request_new()))
        return leave(report(S2D_ERROR_MEMORY, "no memory for a request"));
    status = done(python_submit(target->id, prompt, tokens, count, &own, made));
    if (status == S2D_OK) {
        *request = made;
    } else {
        request_drop(made);
        request_drop(made);
    }
    return leave(status);
}

int s2d_request_create(const s2d_target *target, const char *prompt, const s2d_options *options, s2d_request **request)
{
    return submit(target, prompt, NULL, 0, options, request);
}

int s2d_request_create_tokens(const s2d_target *target, const int32_t *tokens, size_t count, const s2d_options *options,
                              s2d_request **request)
{
    return submit(target, NULL, tokens, count, options, request);
}

int s2d_request_next(s2d_request *request, int timeout_ms, const s2d_step **step)
{
    int status;
    if (!request || !step)
        return null(!request ? "request" : "step");
    if ((status = enter()) != S2D_OK)
        return status;
    return leave(request_next(request, timeout_ms, step));
}

int s2d_request_run(s2d_request *request, s2d_step_callback callback, void *user_data)
{
    const s2d_step *step;
    int status;
    if (!request || !callback)
        return null(!request ? "request" : "callback");
    if ((status = enter()) != S2D_OK)
        return status;
    while ((status = request_next(request, -1, &step)) == S2D_OK)
        if (callback(step, user_data) != 0)
            request_cancel(request);
    return leave(status == S2D_END ? S2D_OK : status);
}

int s2d_request_cancel(s2d_request *request)
{
    if (!request)
        return S2D_ERROR_ARGUMENT;
    request_cancel(request);
    return S2D_OK;
}

int s2d_request_stats(const s2d_request *request, s2d_stats *stats, size_t size)
{
    int status;
    s2d_stats own;
    if (!request)
        return null("request");
    if ((status = enter()) != S2D_OK)
        return status;
    request_stats(request, &own);
    return leave(write_struct(stats, size, &own, sizeof own, "s2d_stats"));
}

void s2d_request_free(s2d_request *request)
{
    if (!request || is_fork())
        return; /* in a fork, its lock may be held by a thread that the child does not have */
    request_cancel(request);
    request_drop(request);
}
