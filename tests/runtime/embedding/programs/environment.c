/* environment [ENVIRONMENT [PYTHON_PATH]]: where Python is found; prints the status, what was wrong, and the log. */
#include "check.h"

static void print(int level, const char *message, void *user_data)
{
    (void)user_data;
    printf("log %d: %s\n", level, message);
}

int main(int argc, char **argv)
{
    s2d_params params;
    s2d_draft *draft = NULL;
    int status;
    OK(s2d_set_log_callback(print, NULL));
    OK(s2d_params_default(&params, sizeof params));
    params.environment = argc > 1 && *argv[1] ? argv[1] : NULL;
    params.python_path = argc > 2 ? argv[2] : NULL;
    status = s2d_init(&params);
    printf("%s: %s\n", s2d_status_name(status), s2d_last_error());
    if (status == S2D_OK)
        return s2d_shutdown();
    CHECK(s2d_draft_open("draft", &draft) == S2D_ERROR_STATE && !draft);
    return status != S2D_ERROR_PYTHON;
}
