// One configuration, one command, one answer.

#include "check.h"

// What a callback has seen, stream by stream.
struct seen {
    char text[3][4096];
    int limit; // Calls after which it has had enough; 0 for none.
    int calls;
};

static bool collect(void *context, VmetteStream stream, const uint8_t *data, size_t length) {
    struct seen *seen = context;
    char *text = seen->text[stream];
    CHECK(strlen(text) + length < sizeof seen->text[0]);
    strncat(text, (const char *)data, length);
    seen->calls++;
    return seen->limit == 0 || seen->calls < seen->limit;
}

static vmette_config_t *shell(const char *command) {
    vmette_config_t *config = vmette_config_new("", "");
    CHECK(config != NULL);
    CHECK(vmette_config_set_exec(config, command) == Ok);
    return config;
}

static void captured(void) {
    vmette_config_t *config = shell("echo \"$GREETING\"; echo err >&2; exit 7");
    CHECK(vmette_config_set_capture_output(config, true) == Ok);
    CHECK(vmette_config_add_env(config, "GREETING", "gr\xc3\xbc\xc3\x9f Gott") == Ok);
    vmette_run_output_t *output = NULL;
    CHECK(vmette_run(config, &output) == Ok);
    CHECK(vmette_run_output_exit_code(output) == 7);
    size_t length = 0;
    const char *text = vmette_run_output_text(output, &length);
    CHECK(strlen(text) == length);
    CHECK(strstr(text, "gr\xc3\xbc\xc3\x9f Gott\n") != NULL && strstr(text, "err\n") != NULL);
    const char *report = vmette_run_output_report(output);
    CHECK(report != NULL && strstr(report, "\"engine\":\"QEMU ") != NULL);
    CHECK(strstr(report, "\"isolation\":\"emulation\"") != NULL || strstr(report, "\"isolation\":\"hardware\"") != NULL);
    CHECK(strstr(report, "\"network\":false") != NULL);
    vmette_run_output_free(output);
    vmette_config_free(config);
}

static void passed_through(void) {
    vmette_config_t *config = shell("echo passed through to stdout; echo passed through to stderr >&2");
    vmette_run_output_t *output = NULL;
    CHECK(vmette_run(config, &output) == Ok);
    CHECK(vmette_run_output_exit_code(output) == 0);
    CHECK(strcmp(vmette_run_output_text(output, NULL), "") == 0);
    vmette_run_output_free(output);
    vmette_config_free(config);
}

static void streamed(void) {
    vmette_config_t *config = shell("echo one; echo two >&2; exit 3");
    struct seen seen = {0};
    vmette_run_output_t *output = NULL;
    CHECK(vmette_run_streaming(config, NULL, collect, &seen, &output) == Ok);
    CHECK(vmette_run_output_exit_code(output) == 3);
    CHECK(strcmp(seen.text[VMETTE_STREAM_STDOUT], "one\n") == 0);
    CHECK(strcmp(seen.text[VMETTE_STREAM_STDERR], "two\n") == 0);
    vmette_run_output_free(output);

    // A callback that has had enough ends a command that would never end.
    CHECK(vmette_config_set_exec(config, "while :; do echo again; sleep 1; done") == Ok);
    struct seen first = {.limit = 1};
    CHECK(vmette_run_streaming(config, NULL, collect, &first, &output) == Ok);
    CHECK(first.calls == 1 && vmette_run_output_exit_code(output) == 128 + 9);
    vmette_run_output_free(output);
    vmette_config_free(config);
}

static void timed_out(void) {
    vmette_config_t *config = shell("sleep 600");
    CHECK(vmette_config_set_timeout(config, 3) == Ok);
    vmette_run_output_t *output = NULL;
    CHECK(vmette_run(config, &output) == Ok);
    CHECK(vmette_run_output_exit_code(output) == 124);
    vmette_run_output_free(output);
    vmette_config_free(config);
}

// A failure is a status with a text, and leaves the place for the result alone.
static void refused(void) {
    vmette_run_output_t *untouched = (vmette_run_output_t *)&untouched, *output = untouched;
    vmette_config_t *config = vmette_config_new_default();
    CHECK(vmette_run(config, &output) == InvalidConfig);
    CHECK_SAID("nothing to run");
    CHECK(strcmp(vmette_last_error_code(), "config_nothing_to_run") == 0);

    const char *missing[] = {"no-such-command", NULL};
    CHECK(vmette_config_set_argv(config, missing) == Ok);
    CHECK(vmette_run(config, &output) == RequestFailed);
    CHECK_SAID("no-such-command");
    CHECK(vmette_last_error_exit_code() == 127);
    CHECK(strcmp(vmette_last_error_code(), "request_not_found") == 0);

    CHECK(vmette_config_set_mem_mib(config, 1) == Ok);
    CHECK(vmette_run(config, &output) == InvalidConfig);
    CHECK_SAID("1 MiB of memory");
    CHECK(vmette_config_set_mem_mib(config, 512) == Ok);

    CHECK(vmette_config_set_rootfs_share(config, "/no/such/folder", true) == Ok);
    CHECK(vmette_run(config, &output) == InvalidConfig);
    CHECK_SAID("/no/such/folder");

    CHECK(vmette_config_resolve_rootfs(config, "tar+file:///no/such/archive", NULL) == RootfsFailed);
    CHECK_SAID("/no/such/archive");
    CHECK(strcmp(vmette_last_error_code(), "rootfs_io") == 0);
    CHECK(vmette_run(config, &output) == RootfsFailed);
    CHECK(vmette_config_resolve_rootfs(config, "builtin", NULL) == Ok);

    CHECK(vmette_config_add_share(config, "tag", NULL) == NullArg);
    CHECK(vmette_run(config, &output) == NullArg);
    CHECK_SAID("vmette_config_add_share: path is NULL");
    CHECK(output == untouched);
    vmette_config_free(config);
}

int main(void) {
    refused();
    captured();
    passed_through();
    streamed();
    timed_out();
    return 0;
}
