/* What the parts of the shim share. Functions that are called from Python begin with host_, functions that Python
 * implements with python_; runtime/embedding/build.py lists both for cffi. */
#ifndef S2D_SHIM_H
#define S2D_SHIM_H

#include "s2d.h"

/* What python_ functions return when they succeed. cffi returns 0 for a function that did not run. */
#define S2D_DONE 1

/* report.c: this thread's error, and the host's log. */
int report(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
void host_error(const char *message);
void host_log(int level, const char *message);
void set_log(s2d_log_callback callback, void *user_data);

/* structs.c: read a host's struct over the defaults in `own`; write one to a host. */
int read_struct(void *own, size_t own_size, const void *theirs, const char *name);
int write_struct(void *theirs, size_t size, const void *own, size_t own_size, const char *name);
extern const s2d_params default_params;
extern const s2d_options default_options;

/* process.c: every call that needs Python or a lock is between enter() == S2D_OK and leave(). */
int enter(void);
int leave(int status);
int is_fork(void);
void shut_down_at_exit(void);
/* What a python_ function returned, as a status. */
int done(int returned);

/* requests.c: what Python tells of a text, until the host takes it. */
s2d_request *request_new(void);
void request_drop(s2d_request *request);
int request_next(s2d_request *request, int timeout_ms, const s2d_step **step);
void request_cancel(s2d_request *request);
void request_stats(const s2d_request *request, s2d_stats *stats);
int host_put(s2d_request *request, const s2d_step *step, const s2d_stats *stats);
void host_end(s2d_request *request, int status, const char *message, const s2d_stats *stats);
int host_take_cancels(void);
int host_cancelled(const s2d_request *request);

/* interpreter.c: start Python, or use the one that runs; report() on failure. */
int interpreter_start(const char *environment, const char *python_path);
int interpreter_runs(void);

/* The file that cffi writes: connect the python_ functions; 0 or -1. */
int native_start(void);

typedef struct text_buffer {
    char *data;
    size_t capacity;
    size_t length;
} text_buffer;

int python_start(const s2d_params *params);
int python_stop(void);
int python_draft_open(const char *path, uint64_t *id);
int python_target_open(const char *path, uint64_t draft, uint64_t *id, s2d_target_facts *facts);
int python_close(uint64_t id);
int python_tokenize(uint64_t target, const char *text, int special_tokens, int32_t *tokens, size_t capacity,
                    size_t *count);
int python_detokenize(uint64_t target, const int32_t *tokens, size_t count, text_buffer *text);
int python_chat_render(uint64_t target, const s2d_message *messages, size_t count, text_buffer *text);
int python_submit(uint64_t target, const char *prompt, const int32_t *tokens, size_t count,
                  const s2d_options *options, s2d_request *request);

#endif
