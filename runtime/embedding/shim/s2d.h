/* s2d: generate text with targets and a sorted draft, from C or C++.
 *
 * The text is what the target alone writes with the same seed; the draft decides only the speed. All requests of a
 * process step together: the texts of one target share its calls, and all texts share those of a draft.
 *
 * Status      Functions that return int return S2D_OK, a positive status that is no error, or a negative error.
 *             After an error, s2d_last_error() says in one line what was wrong and what to do.
 * Threads     Every function may be called from any thread at any time, unless its comment says otherwise. Calls on
 *             different requests do not wait for each other.
 * Handles     A handle belongs to the host, which gives it back once. A target keeps its draft, and a request its
 *             target: they may be closed in any order. NULL is an error, except where close and free do nothing.
 * Structs     They may grow in later versions. A host passes the size that its header gives them, and fields that
 *             an older host does not know keep their defaults.
 * Text        UTF-8. What the library returns is also ended by a NUL that its length does not count.
 * Output      Nothing is printed; see s2d_set_log_callback.
 * Signals     The host's handlers stay as they are.
 * fork        The child of a fork() cannot use the library: every call fails with S2D_ERROR_STATE. Fork before
 *             s2d_init, or exec in the child.
 * Unloading   The library stays in memory after dlclose: an interpreter cannot be unloaded.
 */
#ifndef S2D_H
#define S2D_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define S2D_API __attribute__((visibility("default")))
#else
#define S2D_API
#endif

/* Version of this interface. It changes when a program must be compiled again. */
#define S2D_ABI_VERSION 1

/* ---- types ---- */

typedef enum s2d_status {
    S2D_OK = 0,
    S2D_END = 1,              /* the text has ended: no further step */
    S2D_TIMEOUT = 2,          /* no step within the time given */
    S2D_ERROR_ARGUMENT = -1,  /* NULL, text that is no UTF-8, or an option out of range */
    S2D_ERROR_STATE = -2,     /* not initialised, shut down, initialised twice, or the child of a fork */
    S2D_ERROR_PYTHON = -3,    /* the interpreter or its environment could not be started */
    S2D_ERROR_BUNDLE = -4,    /* a bundle is missing or damaged */
    S2D_ERROR_MISMATCH = -5,  /* draft and target have different tokenizers */
    S2D_ERROR_CAPACITY = -6,  /* the prompt does not fit the target */
    S2D_ERROR_BUFFER = -7,    /* the host's buffer is too small; the length needed was written */
    S2D_ERROR_MEMORY = -8,    /* no memory */
    S2D_ERROR_INTERNAL = -9   /* a fault of an engine or of the library */
} s2d_status;

typedef enum s2d_finish {
    S2D_RUNNING = 0,
    S2D_FINISH_STOP = 1,      /* end-of-text token, stop token or stop string */
    S2D_FINISH_LENGTH = 2,    /* max_new_tokens */
    S2D_FINISH_CAPACITY = 3,  /* the target holds no longer text */
    S2D_FINISH_CANCELLED = 4,
    S2D_FINISH_ERROR = 5
} s2d_finish;

typedef enum s2d_level { S2D_LOG_INFO = 0, S2D_LOG_WARNING = 1, S2D_LOG_ERROR = 2 } s2d_level;

typedef struct s2d_draft s2d_draft;
typedef struct s2d_target s2d_target;
typedef struct s2d_request s2d_request;

/* Of s2d_init. The strings need to live only during the call. */
typedef struct s2d_params {
    size_t size;
    const char *environment;  /* folder of the Python environment (a venv) with the runtime; NULL: the folder `python`
                                 beside this library if there is one, else the one that built the library */
    const char *python_path;  /* folders before the environment's packages, separated by ':'; NULL: none */
    const char *device;       /* "cpu", "cuda" or "cuda:1"; NULL: what each bundle is for */
    int32_t threads;          /* CPU threads of an engine; 0: the physical cores */
    int32_t sequences;        /* most texts that step together; the others wait in order (8) */
    int64_t memory_bytes;     /* most bytes of the running texts' caches; 0: no limit */
    int64_t prefix_bytes;     /* bytes to keep beginnings of earlier texts in; 0: none are kept */
    int32_t verify;           /* 1: check the hash of every file of a bundle */
} s2d_params;

typedef struct s2d_target_facts {
    size_t size;
    int32_t vocab_size;
    int32_t max_length;  /* most tokens of a text, the prompt included */
    int32_t drafted;     /* 1: it has a draft */
    int32_t exact;       /* 1: texts are bit for bit the target's own, unless an option says otherwise */
    int32_t chat;        /* 1: it has a chat template */
    char name[64];       /* cut where it is longer */
} s2d_target_facts;

typedef struct s2d_message {
    const char *role; /* system, user, assistant, ... */
    const char *content;
} s2d_message;

typedef struct s2d_bias {
    int32_t token;
    double bias;
} s2d_bias;

/* What a request asks for. The pointers need to live only until s2d_request_create returns. */
typedef struct s2d_options {
    size_t size;
    int32_t max_new_tokens;        /* 128 */
    double temperature;            /* 0 is greedy (0) */
    int32_t top_k;                 /* 0: off */
    double top_p;                  /* 1: off */
    double min_p;                  /* 0: off */
    double repetition_penalty;     /* 1: off */
    double frequency_penalty;      /* -2 to 2; 0: off */
    double presence_penalty;       /* -2 to 2; 0: off */
    int32_t has_seed;              /* 0: one is drawn; s2d_request_stats tells it (0) */
    uint64_t seed;                 /* the same seed gives the same text */
    const s2d_bias *logit_bias;    /* added to the logits of tokens, -100 to 100 */
    size_t logit_bias_count;
    const char *const *bad_words;  /* texts that are never written */
    size_t bad_word_count;
    const char *const *stop;       /* the text ends before these */
    size_t stop_count;
    const int32_t *stop_token_ids; /* the text ends with these */
    size_t stop_token_id_count;
    int32_t min_tokens;            /* it does not end before so many new tokens (0) */
    int32_t ignore_eos;            /* 1: go on behind the end-of-text token (0) */
    int32_t logprobs;              /* log-probabilities of new tokens and so many best beside each; -1: none (-1) */
    int32_t special_tokens;        /* 1: a prompt given as text gets the tokenizer's special tokens (1) */
    int32_t draft;                 /* 0: the target decodes without drafting (1) */
    int32_t exact;                 /* 1: bit for bit the target's own or an error; 0: need not; -1: where possible (-1) */
    const char *constraint_kind;   /* json_schema, regex, lark, or choice: a JSON list of texts; NULL: none */
    const char *constraint;        /* the whole new text matches it; needs the extra [grammar] */
    const double *thresholds;      /* one for each exit of the draft, instead of the adaptive policy; NULL: adaptive */
    size_t threshold_count;
} s2d_options;

/* What one step added. It belongs to the library. */
typedef struct s2d_step {
    size_t size;
    const int32_t *tokens;
    size_t token_count;           /* 0 where only text came that was held back for a stop string */
    const unsigned char *drafted; /* [token_count] 1: a draft proposed it and the target accepted */
    const char *text;
    size_t text_length;
    const size_t *text_ends;      /* [token_count] where each token's text ends; the rest belongs to no token */
    const double *logprobs;       /* [token_count]; NULL where they were not asked for */
    size_t top_count;             /* best tokens beside each token */
    const int32_t *top_tokens;    /* [token_count][top_count], -1 where there are fewer */
    const double *top_logprobs;   /* [token_count][top_count] */
} s2d_step;

typedef struct s2d_stats {
    size_t size;
    int32_t finish; /* an s2d_finish */
    int32_t exact;  /* 1: the text is bit for bit the target's own; known when it has begun */
    uint64_t seed;
    int64_t prompt_tokens;
    int64_t new_tokens;
    int64_t steps;           /* verify calls */
    int64_t accepted_tokens; /* drafted tokens that the target accepted */
    double preparation;      /* seconds before the prefill, not part of total */
    double total;            /* seconds; of steps that texts share, each counts the whole */
    double prefill;
    double draft;
    double verify;
} s2d_stats;

/* Takes a message that ends without a newline. It is called from any thread, one call at a time, and must not call the
 * library. */
typedef void (*s2d_log_callback)(int level, const char *message, void *user_data);

/* Takes a step, valid only during the call; a value other than 0 cancels the request. It runs on the thread that called
 * s2d_request_run and may call every function but s2d_shutdown. */
typedef int (*s2d_step_callback)(const s2d_step *step, void *user_data);

/* ---- functions ---- */

/* S2D_ABI_VERSION of the library. Needs no s2d_init. */
S2D_API int s2d_abi_version(void);

/* What was wrong with this thread's latest call that returned an error; "" if there was none. Valid until this thread's
 * next call that returns an error. Never NULL. Needs no s2d_init. */
S2D_API const char *s2d_last_error(void);

/* The name of a status, like "S2D_ERROR_BUNDLE"; a constant. Needs no s2d_init. */
S2D_API const char *s2d_status_name(int status);

/* Take progress, warnings and whatever Python would print; NULL ends that. It may be set before s2d_init, and then says
 * why it failed. When the call returns, the earlier callback has returned and is not called again. */
S2D_API int s2d_set_log_callback(s2d_log_callback callback, void *user_data);

/* Write the defaults. `size` is sizeof(s2d_params). Needs no s2d_init. */
S2D_API int s2d_params_default(s2d_params *params, size_t size);

/* Start the interpreter and the thread in which texts step, about half a second; `params` may be NULL. There is one
 * interpreter in a process: where the host runs Python already, it is used, and `environment` must be NULL. After
 * s2d_shutdown, s2d_init may be called again, with the same environment.
 * Errors: S2D_ERROR_STATE where it is initialised; S2D_ERROR_PYTHON where there is no environment with the runtime. */
S2D_API int s2d_init(const s2d_params *params);

/* Cancel all requests, wait for the calls of other threads, close drafts and targets. Handles stay the host's: close
 * and free them as ever; every other call on them fails. A process that ends by exit() does this itself.
 * Errors: S2D_ERROR_STATE where it is not initialised, or in a callback. */
S2D_API int s2d_shutdown(void);

/* Load a draft bundle, by path or by name under `engines/`. Several targets may share it.
 * Errors: S2D_ERROR_BUNDLE, S2D_ERROR_ARGUMENT. */
S2D_API int s2d_draft_open(const char *path, s2d_draft **draft);

/* Give the handle back; NULL is ignored. The draft is freed with the last target that has it. */
S2D_API void s2d_draft_close(s2d_draft *draft);

/* Load a target bundle. `draft` NULL: only n-gram lookup drafts. The first time on a machine, it is checked and measured
 * for some seconds, during which texts of other targets with this draft wait.
 * Errors: S2D_ERROR_BUNDLE, S2D_ERROR_MISMATCH, S2D_ERROR_ARGUMENT. */
S2D_API int s2d_target_open(const char *path, const s2d_draft *draft, s2d_target **target);

/* Give the handle back; NULL is ignored. The target is freed after its last request. */
S2D_API void s2d_target_close(s2d_target *target);

/* Facts of a target. `size` is sizeof(s2d_target_facts). */
S2D_API int s2d_target_info(const s2d_target *target, s2d_target_facts *facts, size_t size);

/* Tokens of a text, into a buffer of `capacity` tokens; `count` becomes how many there are. With `special_tokens` 1 the
 * tokenizer's own are added, as for a prompt. `tokens` may be NULL where `capacity` is 0.
 * Errors: S2D_ERROR_BUFFER where they are more than `capacity`; nothing is written then but `count`. */
S2D_API int s2d_tokenize(const s2d_target *target, const char *text, int special_tokens, int32_t *tokens,
                         size_t capacity, size_t *count);

/* Text of tokens, without special tokens, into a buffer of `capacity` bytes; `length` becomes its bytes, the NUL not
 * counted. `text` may be NULL where `capacity` is 0.
 * Errors: S2D_ERROR_BUFFER where `capacity` is not above the length; nothing is written then but `length`. */
S2D_API int s2d_detokenize(const s2d_target *target, const int32_t *tokens, size_t count, char *text, size_t capacity,
                           size_t *length);

/* A conversation as text, by the target's chat template, up to the model's own next turn. Buffers as for s2d_detokenize.
 * The template writes the special tokens: create the request with options.special_tokens 0.
 * Errors: S2D_ERROR_BUNDLE where the target has no template, S2D_ERROR_ARGUMENT where it does not take the messages. */
S2D_API int s2d_chat_render(const s2d_target *target, const s2d_message *messages, size_t count, char *text,
                            size_t capacity, size_t *length);

/* Write the defaults. `size` is sizeof(s2d_options). Needs no s2d_init. */
S2D_API int s2d_options_default(s2d_options *options, size_t size);

/* Submit a text to continue; `options` may be NULL. It starts as soon as fewer than `sequences` texts run, also if
 * nobody takes its steps: they wait in memory.
 * Errors: S2D_ERROR_ARGUMENT, S2D_ERROR_CAPACITY. */
S2D_API int s2d_request_create(const s2d_target *target, const char *prompt, const s2d_options *options,
                               s2d_request **request);

/* As s2d_request_create, from token ids. */
S2D_API int s2d_request_create_tokens(const s2d_target *target, const int32_t *tokens, size_t count,
                                      const s2d_options *options, s2d_request **request);

/* The next step; waits for it `timeout_ms` milliseconds, 0 not at all, below 0 without limit. `step` is set only with
 * S2D_OK and is valid until the next call of s2d_request_next or s2d_request_free with this request. Only one thread at
 * a time may take a request's steps.
 * Returns S2D_OK, S2D_TIMEOUT, S2D_END (again at every further call), or the error that ended the text. */
S2D_API int s2d_request_next(s2d_request *request, int timeout_ms, const s2d_step **step);

/* Call `callback` with every step until the text ends; S2D_OK also where it was cancelled. The error that ended the text
 * is returned. Only one thread at a time may take a request's steps. */
S2D_API int s2d_request_run(s2d_request *request, s2d_step_callback callback, void *user_data);

/* End the text before its next step; what was generated stays, and the steps that wait can still be taken. Safe in
 * signal handlers; never blocks. The request must not be freed at the same time. */
S2D_API int s2d_request_cancel(s2d_request *request);

/* What the text cost until its latest step. `size` is sizeof(s2d_stats). */
S2D_API int s2d_request_stats(const s2d_request *request, s2d_stats *stats, size_t size);

/* Cancel the request and give the handle back; NULL is ignored. No other call may use it at the same time. */
S2D_API void s2d_request_free(s2d_request *request);

#ifdef __cplusplus
}
#endif

#endif
