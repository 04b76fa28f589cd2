// A machine that stays: commands with streams, files, and whatever thread they come from.
#define _GNU_SOURCE

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

static vmette_session_t *started;

// The machine outlives the thread that asked for it.
static void *start(void *config) {
    CHECK(vmette_session_start(config, NULL, &started) == Ok);
    return NULL;
}

static vmette_process_t *exec(const vmette_session_t *session, vmette_command_t *command) {
    vmette_process_t *process = NULL;
    CHECK(command != NULL);
    CHECK(vmette_session_exec(session, command, &process) == Ok);
    vmette_command_free(command);
    return process;
}

static void collected(const vmette_session_t *session) {
    const char *argv[] = {"sh", "-c", "pwd; echo $A; id -u >&2; sort; exit 5", NULL};
    vmette_command_t *command = vmette_command_new(argv);
    CHECK(vmette_command_add_env(command, "A", "a value") == Ok);
    CHECK(vmette_command_set_cwd(command, "/etc") == Ok);
    CHECK(vmette_command_set_user(command, "12") == Ok);
    CHECK(vmette_command_set_stdin(command, true) == Ok);
    vmette_process_t *process = exec(session, command);
    CHECK(vmette_process_pid(process) > 0);
    CHECK(vmette_process_write_stdin(process, (const uint8_t *)"b\na\n", 4) == Ok);
    CHECK(vmette_process_close_stdin(process) == Ok);
    vmette_collected_t *result = NULL;
    CHECK(vmette_process_collect(process, 1 << 20, &result) == Ok);
    CHECK(vmette_collected_exit_code(result) == 5);
    size_t length = 0;
    CHECK(strcmp(vmette_collected_stdout(result, &length), "/etc\na value\na\nb\n") == 0 && length == 17);
    CHECK(strcmp(vmette_collected_stderr(result, NULL), "12\n") == 0);
    vmette_collected_free(result);
    vmette_process_free(process);
}

// Output piece by piece, into a buffer that is smaller than the pieces.
static void read_back(const vmette_session_t *session) {
    vmette_process_t *process =
        exec(session, vmette_command_new_shell("i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i+1)); done"));
    char all[40000] = "";
    size_t total = 0, length = 1;
    while (length > 0) {
        uint8_t buffer[100];
        VmetteStream stream = 0;
        // A call that fails loses nothing.
        CHECK(vmette_process_read(process, &stream, NULL, sizeof buffer, &length) == NullArg);
        CHECK(vmette_process_read(process, &stream, buffer, sizeof buffer, &length) == Ok);
        CHECK(length <= sizeof buffer && total + length < sizeof all);
        CHECK(stream == VMETTE_STREAM_STDOUT);
        memcpy(all + total, buffer, length);
        total += length;
    }
    CHECK(total == 23890 && strncmp(all, "0\n1\n2\n", 6) == 0 && strcmp(all + total - 10, "4998\n4999\n") == 0);
    int32_t code = -1;
    CHECK(vmette_process_wait(process, &code) == Ok && code == 0);
    vmette_process_free(process);
}

static bool append(void *context, VmetteStream stream, const uint8_t *data, size_t length) {
    CHECK(stream == VMETTE_STREAM_STDOUT);
    strncat(context, (const char *)data, length);
    return true;
}

// What a read had no room for comes first, whichever way the rest is taken.
static void taken_up(const vmette_session_t *session) {
    for (int streamed = 0; streamed < 2; streamed++) {
        vmette_command_t *command = vmette_command_new_shell("printf abcdef; read go; printf ghi");
        CHECK(vmette_command_set_stdin(command, true) == Ok);
        vmette_process_t *process = exec(session, command);
        uint8_t buffer[2];
        size_t length = 0;
        VmetteStream stream = 0;
        CHECK(vmette_process_read(process, &stream, buffer, sizeof buffer, &length) == Ok && length == 2);
        CHECK(vmette_process_close_stdin(process) == Ok);
        if (streamed) {
            char rest[100] = "";
            CHECK(vmette_process_stream(process, append, rest) == Ok);
            CHECK(strcmp(rest, "cdefghi") == 0);
        } else {
            vmette_collected_t *result = NULL;
            CHECK(vmette_process_collect(process, 6, &result) == Ok);
            CHECK(strcmp(vmette_collected_stdout(result, NULL), "cdefgh") == 0);
            vmette_collected_free(result);
        }
        vmette_process_free(process);
    }
}

// A terminal has the size that it was given, and signals reach the command.
static void terminal(const vmette_session_t *session) {
    vmette_command_t *command = vmette_command_new_shell("stty size; read line; stty size; read line; echo not reached");
    CHECK(vmette_command_set_tty(command, 24, 80) == Ok);
    CHECK(vmette_command_set_stdin(command, true) == Ok);
    vmette_process_t *process = exec(session, command);
    uint8_t buffer[64] = {0};
    size_t length = 0;
    VmetteStream stream = 0;
    CHECK(vmette_process_read(process, &stream, buffer, sizeof buffer - 1, &length) == Ok);
    CHECK(strstr((char *)buffer, "24 80") != NULL);
    CHECK(vmette_process_resize(process, 50, 132) == Ok);
    CHECK(vmette_process_write_stdin(process, (const uint8_t *)"\n", 1) == Ok);
    char rest[256] = "";
    while (strstr(rest, "50 132") == NULL) {
        CHECK(vmette_process_read(process, &stream, buffer, sizeof buffer, &length) == Ok && length > 0);
        strncat(rest, (char *)buffer, length);
    }
    CHECK(vmette_process_signal(process, 9) == Ok);
    vmette_collected_t *result = NULL;
    CHECK(vmette_process_collect(process, 1000, &result) == Ok);
    CHECK(vmette_collected_exit_code(result) == 128 + 9);
    vmette_collected_free(result);
    vmette_process_free(process);
}

static void files(const vmette_session_t *session) {
    int source = memfd_create("source", MFD_CLOEXEC), target = memfd_create("target", MFD_CLOEXEC);
    static char bytes[300000], back[sizeof bytes];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (char)(i * 7 + i / 256);
    }
    CHECK(write(source, bytes, sizeof bytes) == (ssize_t)sizeof bytes && lseek(source, 0, SEEK_SET) == 0);
    uint64_t copied = 0;
    CHECK(vmette_session_put(session, "/tmp/new/file", 0640, source, &copied) == Ok && copied == sizeof bytes);
    uint32_t mode = 0;
    copied = 0;
    CHECK(vmette_session_get(session, "/tmp/new/file", target, &mode, &copied) == Ok);
    CHECK(copied == sizeof bytes && mode == 0640);
    CHECK(pread(target, back, sizeof back, 0) == (ssize_t)sizeof back && memcmp(bytes, back, sizeof bytes) == 0);
    CHECK(vmette_session_get(session, "/no/such/file", target, NULL, NULL) == RequestFailed);
    CHECK_SAID("/no/such/file");
    CHECK(vmette_session_get(session, "/etc/passwd", -1, NULL, NULL) == InvalidConfig);
    CHECK(vmette_session_get(session, "/etc/passwd", 999, NULL, NULL) == Io);
    close(source);
    close(target);
}

enum { SIDE_BY_SIDE = 6, MANY = 3 << 20 };

struct command {
    const vmette_session_t *session;
    char byte;
    size_t seen;
};

static bool count(void *context, VmetteStream stream, const uint8_t *data, size_t length) {
    struct command *command = context;
    CHECK(stream == VMETTE_STREAM_STDOUT);
    for (size_t i = 0; i < length; i++) {
        CHECK(data[i] == (uint8_t)command->byte);
    }
    // A callback may call.
    if (command->seen == 0) {
        CHECK(vmette_session_ping(command->session) == Ok);
    }
    command->seen += length;
    return true;
}

static void *much_output(void *context) {
    struct command *command = context;
    char line[100];
    snprintf(line, sizeof line, "head -c %d /dev/zero | tr '\\0' %c", MANY, command->byte);
    vmette_process_t *process = exec(command->session, vmette_command_new_shell(line));
    CHECK(vmette_process_stream(process, count, command) == Ok);
    vmette_process_free(process);
    return NULL;
}

// Several threads, each with a command that says more than anything on the way holds.
static void side_by_side(const vmette_session_t *session) {
    pthread_t threads[SIDE_BY_SIDE];
    struct command commands[SIDE_BY_SIDE];
    for (int i = 0; i < SIDE_BY_SIDE; i++) {
        commands[i] = (struct command){session, (char)('a' + i), 0};
        CHECK(pthread_create(&threads[i], NULL, much_output, &commands[i]) == 0);
    }
    for (int i = 0; i < SIDE_BY_SIDE; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(commands[i].seen == MANY);
    }
}

static void refused(const vmette_session_t *session) {
    const char *argv[] = {"/etc/passwd", NULL};
    vmette_command_t *command = vmette_command_new(argv);
    vmette_process_t *process = NULL;
    CHECK(vmette_session_exec(session, command, &process) == RequestFailed && process == NULL);
    CHECK(vmette_last_error_exit_code() == 126);
    vmette_command_free(command);
    CHECK(vmette_session_ping(session) == Ok);
}

// A command of the session's own, with its streams; its end is the session's.
static void own_command(vmette_config_t *config) {
    vmette_command_t *command = vmette_command_new_shell("cat; exit 9");
    CHECK(vmette_command_set_stdin(command, true) == Ok);
    vmette_session_t *session = NULL;
    vmette_process_t *process = NULL;
    CHECK(vmette_session_start_command(config, command, NULL, &session, &process) == Ok && process != NULL);
    CHECK(vmette_session_wait_for(session, 1, NULL, NULL) == Timeout);
    CHECK(vmette_process_write_stdin(process, (const uint8_t *)"through", 7) == Ok);
    CHECK(vmette_process_close_stdin(process) == Ok);
    vmette_collected_t *result = NULL;
    CHECK(vmette_process_collect(process, 4, &result) == Ok);
    CHECK(strcmp(vmette_collected_stdout(result, NULL), "thro") == 0);
    VmetteSessionEnd how = -1;
    int32_t code = -1;
    CHECK(vmette_session_wait(session, &how, &code) == Ok);
    CHECK(how == VMETTE_SESSION_END_EXITED && code == 9);
    CHECK(vmette_session_ping(session) == AgentLost);
    vmette_collected_free(result);
    vmette_session_free(session);
    // A process may outlive its session; there is nothing left to signal.
    CHECK(vmette_process_signal(process, 9) == Ok);
    vmette_process_free(process);
    vmette_command_free(command);
}

static int open_descriptors(void) {
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir != NULL);
    int count = 0;
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}

int main(void) {
    int descriptors = open_descriptors();
    vmette_config_t *config = vmette_config_new_default();
    CHECK(vmette_config_set_agent(config, true) == Ok);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, start, config) == 0 && pthread_join(thread, NULL) == 0);
    vmette_config_free(config);

    collected(started);
    read_back(started);
    taken_up(started);
    terminal(started);
    files(started);
    refused(started);
    side_by_side(started);
    char *report = NULL;
    CHECK(vmette_session_report(started, &report) == Ok);
    CHECK(strstr(report, "\"accelerator\"") != NULL && strstr(report, "\"timings\"") != NULL);
    vmette_string_free(report);
    CHECK(vmette_session_vsock_port(started) == 0);
    // It has no vsock device.
    vmette_vsock_listener_t *listener = NULL;
    int fd = -1;
    CHECK(vmette_session_vsock_listen(started, 5000, &listener) == Vsock && listener == NULL);
    CHECK(vmette_session_vsock_connect(started, 5000, &fd) == Vsock && fd == -1);

    CHECK(vmette_session_shutdown(started) == Ok);
    VmetteSessionEnd how = -1;
    int32_t code = -1;
    CHECK(vmette_session_wait(started, &how, &code) == Ok);
    CHECK(how == VMETTE_SESSION_END_STOPPED && code == 0);
    vmette_session_free(started);

    config = vmette_config_new_default();
    own_command(config);
    vmette_config_free(config);
    // The library's own threads close theirs a moment after a session is freed: there is nothing to wait for but that.
    alarm(60);
    while (open_descriptors() != descriptors) {
        sched_yield();
    }
    return 0;
}
