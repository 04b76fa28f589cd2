// A little of everything, for a look at its memory: two sessions, commands with streams, files, failures, a stop from
// another thread.
#define _GNU_SOURCE

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

static bool pass(void *context, VmetteStream stream, const uint8_t *data, size_t length) {
    (void)stream, (void)data;
    *(size_t *)context += length;
    return true;
}

static void hear(void *context, const vmette_notice_t *notice) {
    (void)context;
    CHECK(strlen(notice->text) > 0);
}

static void *stop_now(void *stop) {
    CHECK(vmette_stop_now(stop) == Ok);
    // A thread's last error goes with the thread.
    CHECK(vmette_stop_now(NULL) == NullArg);
    return NULL;
}

static vmette_config_t *configured(void) {
    vmette_config_t *config = vmette_config_new("", "");
    CHECK(vmette_config_resolve_rootfs(config, "builtin", NULL) == Ok);
    CHECK(vmette_config_set_notice_fn(config, hear, NULL) == Ok);
    CHECK(vmette_config_add_env(config, "A", "b") == Ok);
    CHECK(vmette_config_set_cwd(config, "/tmp") == Ok);
    CHECK(vmette_config_set_timeout(config, 280) == Ok);
    return config;
}

// A connection that is taken, one that nobody takes, and a port that outlives its machine.
static vmette_vsock_listener_t *a_port(const vmette_session_t *session) {
    vmette_vsock_listener_t *listener = NULL;
    CHECK(vmette_session_vsock_listen(session, 0, &listener) == Ok);
    char line[100];
    uint32_t port = vmette_vsock_listener_port(listener);
    snprintf(line, sizeof line, "vsock-send %u & vsock-send %u; wait", port, port);
    vmette_command_t *command = vmette_command_new_shell(line);
    vmette_process_t *process = NULL;
    CHECK(vmette_session_exec(session, command, &process) == Ok);
    vmette_command_free(command);
    int fd = -1;
    CHECK(vmette_vsock_listener_accept(listener, &fd) == Ok && close(fd) == 0);
    CHECK(vmette_session_vsock_connect(session, 1, &fd) == Vsock);
    vmette_process_free(process);
    return listener;
}

static void a_session(void) {
    vmette_config_t *config = configured();
    CHECK(vmette_config_set_vsock(config, true) == Ok);
    vmette_stop_t *stop = vmette_stop_new();
    vmette_session_t *session = NULL;
    CHECK(vmette_session_start(config, stop, &session) == Ok);
    vmette_config_free(config);

    vmette_command_t *command = vmette_command_new_shell("cat; echo done >&2");
    CHECK(vmette_command_set_stdin(command, true) == Ok);
    vmette_process_t *process = NULL;
    CHECK(vmette_session_exec(session, command, &process) == Ok);
    CHECK(vmette_process_write_stdin(process, (const uint8_t *)"abc", 3) == Ok);
    CHECK(vmette_process_close_stdin(process) == Ok);
    uint8_t buffer[2];
    size_t length = 0;
    VmetteStream stream = 0;
    CHECK(vmette_process_read(process, &stream, buffer, sizeof buffer, &length) == Ok && length == 2);
    vmette_collected_t *collected = NULL;
    CHECK(vmette_process_collect(process, 100, &collected) == Ok);
    CHECK(strcmp(vmette_collected_stdout(collected, NULL), "c") == 0);
    CHECK(strcmp(vmette_collected_stderr(collected, NULL), "done\n") == 0);
    vmette_collected_free(collected);
    vmette_process_free(process);

    // One that is let go while it runs, and one whose output nobody takes.
    CHECK(vmette_session_exec(session, command, &process) == Ok);
    vmette_process_free(process);
    vmette_command_free(command);
    command = vmette_command_new_shell("while :; do echo more; done");
    CHECK(vmette_session_exec(session, command, &process) == Ok);
    vmette_command_free(command);

    int file = memfd_create("file", MFD_CLOEXEC);
    CHECK(vmette_session_get(session, "/etc/passwd", file, NULL, NULL) == Ok && lseek(file, 0, SEEK_SET) == 0);
    CHECK(vmette_session_put(session, "/tmp/passwd", 0600, file, NULL) == Ok);
    close(file);
    CHECK(vmette_session_get(session, "/no/such/file", 1, NULL, NULL) == RequestFailed);
    char *report = NULL;
    CHECK(vmette_session_report(session, &report) == Ok);
    vmette_string_free(report);

    vmette_vsock_listener_t *listener = a_port(session);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, stop_now, stop) == 0);
    VmetteSessionEnd how = -1;
    CHECK(vmette_session_wait(session, &how, NULL) == Ok && how == VMETTE_SESSION_END_STOPPED);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(vmette_session_ping(session) == AgentLost);
    vmette_session_free(session);
    vmette_process_free(process);
    vmette_vsock_listener_free(listener);
    vmette_stop_free(stop);
}

static void runs(void) {
    vmette_config_t *config = configured();
    CHECK(vmette_config_set_exec(config, "echo $A; exit 3") == Ok);
    CHECK(vmette_config_set_capture_output(config, true) == Ok);
    vmette_run_output_t *output = NULL;
    CHECK(vmette_run(config, &output) == Ok);
    CHECK(vmette_run_output_exit_code(output) == 3 && strcmp(vmette_run_output_text(output, NULL), "b\n") == 0);
    vmette_run_output_free(output);
    size_t bytes = 0;
    CHECK(vmette_run_streaming(config, NULL, pass, &bytes, &output) == Ok && bytes == 2);
    vmette_run_output_free(output);
    CHECK(vmette_config_add_share(config, "a b", "/tmp") == Ok);
    CHECK(vmette_run(config, &output) == InvalidConfig);
    CHECK(vmette_config_add_disk(config, NULL) == NullArg);
    vmette_config_free(config);
}

int main(void) {
    a_session();
    runs();
    return 0;
}
