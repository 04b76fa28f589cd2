// Guest and host talk over vsock: ports that the program opens, ports that the guest opens, and ports that lead to a
// UNIX socket. The argument is a folder for that.
#define _GNU_SOURCE

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"

enum { PORT = 6000, GUEST_PORT = 7000, ENTRANCE = 7001, FORWARD = 5000 };

static const size_t LARGE = 4 << 20;

static vmette_process_t *shell(const vmette_session_t *session, const char *line) {
    vmette_command_t *command = vmette_command_new_shell(line);
    vmette_process_t *process = NULL;
    CHECK(vmette_session_exec(session, command, &process) == Ok);
    vmette_command_free(command);
    return process;
}

// The command ends with 0 and has said exactly that.
static void says(vmette_process_t *process, const char *expected) {
    vmette_collected_t *collected = NULL;
    CHECK(vmette_process_collect(process, 1000, &collected) == Ok);
    CHECK(strcmp(vmette_collected_stderr(collected, NULL), "") == 0);
    CHECK(strcmp(vmette_collected_stdout(collected, NULL), expected) == 0);
    CHECK(vmette_collected_exit_code(collected) == 0);
    vmette_collected_free(collected);
    vmette_process_free(process);
}

static void all_written(int fd, const char *text) {
    CHECK(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
}

// Reads to the end; keeps the beginning, returns how much there was.
static size_t all_read(int fd, char *start, size_t room) {
    static char buffer[1 << 16];
    size_t total = 0;
    ssize_t got = 0;
    memset(start, 0, room);
    while ((got = read(fd, buffer, sizeof buffer)) > 0) {
        if (total + 1 < room) {
            size_t fits = room - 1 - total;
            memcpy(start + total, buffer, (size_t)got < fits ? (size_t)got : fits);
        }
        total += (size_t)got;
    }
    CHECK(got == 0);
    return total;
}

static void is_a_plain_socket(int fd) {
    CHECK(fd >= 0);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) == 0);
}

static void the_guest_connects(const vmette_session_t *session) {
    vmette_vsock_listener_t *listener = NULL, *other = NULL;
    CHECK(vmette_session_vsock_listen(session, PORT, NULL) == NullArg);
    CHECK(vmette_session_vsock_listen(session, UINT32_MAX, &other) == Vsock);
    CHECK_SAID("4294967295");
    CHECK(vmette_session_vsock_listen(session, PORT, &listener) == Ok);
    CHECK(vmette_vsock_listener_port(listener) == PORT);
    CHECK(vmette_session_vsock_listen(session, PORT, &other) == Vsock && other == NULL);
    CHECK_SAID("6000");
    int fd = -1;
    CHECK(vmette_vsock_listener_accept(listener, NULL) == NullArg);
    CHECK(vmette_vsock_listener_accept_for(listener, 1, &fd) == Timeout && fd == -1);

    vmette_process_t *process = shell(session, "echo to the host | vsock-send 6000");
    CHECK(vmette_vsock_listener_accept_for(listener, 100000, &fd) == Ok);
    is_a_plain_socket(fd);
    char text[64];
    // The guest has shut its direction down and waits for ours.
    CHECK(all_read(fd, text, sizeof text) == 12 && strcmp(text, "to the host\n") == 0);
    all_written(fd, "and back\n");
    CHECK(close(fd) == 0);
    says(process, "and back\n");

    process = shell(session, "head -c 4194304 /dev/zero | vsock-send 6000 | wc -c");
    CHECK(vmette_vsock_listener_accept(listener, &fd) == Ok);
    CHECK(all_read(fd, text, sizeof text) == LARGE);
    static char zeros[1 << 16];
    for (size_t sent = 0; sent < LARGE; sent += sizeof zeros) {
        CHECK(send(fd, zeros, sizeof zeros, MSG_NOSIGNAL) == (ssize_t)sizeof zeros);
    }
    CHECK(close(fd) == 0);
    says(process, "4194304\n");

    vmette_vsock_listener_free(listener);
    says(shell(session, "echo x | vsock-send 6000 2>/dev/null || echo refused"), "refused\n");
    // What was closed can be opened again, and 0 is any that is free.
    CHECK(vmette_session_vsock_listen(session, PORT, &listener) == Ok);
    CHECK(vmette_session_vsock_listen(session, 0, &other) == Ok);
    uint32_t chosen = vmette_vsock_listener_port(other);
    CHECK(chosen >= 50000 && chosen <= 59999);
    vmette_vsock_listener_free(listener);
    vmette_vsock_listener_free(other);
}

static void the_host_connects(const vmette_session_t *session) {
    int fd = -1;
    CHECK(vmette_session_vsock_connect(session, GUEST_PORT, NULL) == NullArg);
    CHECK(vmette_session_vsock_connect(session, GUEST_PORT, &fd) == Vsock && fd == -1);
    CHECK_SAID("7000");
    vmette_process_t *process = shell(session, "echo from the guest | vsock-listen 7000");
    VmetteStatus status = Vsock;
    // It listens when it has come that far; a guest that never does is the session's timeout.
    while (status == Vsock) {
        status = vmette_session_vsock_connect(session, GUEST_PORT, &fd);
    }
    CHECK(status == Ok);
    is_a_plain_socket(fd);
    all_written(fd, "from the host\n");
    CHECK(shutdown(fd, SHUT_WR) == 0);
    char text[64];
    CHECK(all_read(fd, text, sizeof text) == 15 && strcmp(text, "from the guest\n") == 0);
    CHECK(close(fd) == 0);
    says(process, "from the host\n");
}

static void *answer(void *listening) {
    int fd = accept(*(int *)listening, NULL, NULL);
    CHECK(fd >= 0);
    char text[64];
    CHECK(all_read(fd, text, sizeof text) == 9 && strcmp(text, "question\n") == 0);
    all_written(fd, "answer\n");
    close(fd);
    return NULL;
}

static void a_port_leads_to_a_socket(const vmette_session_t *session, int listening) {
    pthread_t thread;
    CHECK(vmette_session_vsock_port(session) == FORWARD);
    CHECK(pthread_create(&thread, NULL, answer, &listening) == 0);
    says(shell(session, "echo question | vsock-send $VMETTE_VSOCK_PORT"), "answer\n");
    CHECK(pthread_join(thread, NULL) == 0);
}

// The socket that the session has made on the host.
static void a_socket_leads_into_the_guest(const vmette_session_t *session, const struct sockaddr_un *address) {
    vmette_process_t *process = shell(session, "echo from the guest | vsock-listen 7001");
    char text[64] = "";
    ssize_t got = 0;
    // Until somebody listens in the guest, connections are closed at once.
    while (got <= 0) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(connect(fd, (const struct sockaddr *)address, sizeof *address) == 0);
        got = recv(fd, text, sizeof text, MSG_WAITALL);
        close(fd);
    }
    CHECK(got == 15 && memcmp(text, "from the guest\n", 15) == 0);
    says(process, "");
}

static void *accept_until_the_end(void *listener) {
    int fd = -1;
    CHECK(vmette_vsock_listener_accept(listener, &fd) == AgentLost && fd == -1);
    CHECK_SAID("has ended");
    return NULL;
}

static void a_session(const char *folder) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CHECK(snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", folder) < (int)sizeof address.sun_path);
    int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(listening, (struct sockaddr *)&address, sizeof address) == 0 && listen(listening, 1) == 0);

    struct sockaddr_un entrance = {.sun_family = AF_UNIX};
    CHECK(snprintf(entrance.sun_path, sizeof entrance.sun_path, "%s/entrance", folder) < (int)sizeof entrance.sun_path);

    vmette_config_t *config = vmette_config_new_default();
    CHECK(vmette_config_set_agent(config, true) == Ok);
    CHECK(vmette_config_set_timeout(config, 280) == Ok);
    CHECK(vmette_config_add_vsock_forward(config, FORWARD, address.sun_path) == Ok);
    CHECK(vmette_config_add_vsock_connect(config, ENTRANCE, entrance.sun_path) == Ok);
    vmette_session_t *session = NULL;
    CHECK(vmette_session_start(config, NULL, &session) == Ok);
    vmette_config_free(config);
    the_guest_connects(session);
    the_host_connects(session);
    a_port_leads_to_a_socket(session, listening);
    a_socket_leads_into_the_guest(session, &entrance);

    // The end of the session is the end of the wait, and a listener may be freed after its session.
    vmette_vsock_listener_t *listener = NULL;
    CHECK(vmette_session_vsock_listen(session, PORT, &listener) == Ok);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, accept_until_the_end, listener) == 0);
    CHECK(vmette_session_stop(session) == Ok);
    CHECK(pthread_join(thread, NULL) == 0);
    int fd = -1;
    CHECK(vmette_session_vsock_connect(session, GUEST_PORT, &fd) == AgentLost && fd == -1);
    vmette_vsock_listener_t *late = NULL;
    CHECK(vmette_session_vsock_listen(session, PORT, &late) == AgentLost && late == NULL);
    vmette_session_free(session);
    vmette_vsock_listener_free(listener);
    CHECK(access(entrance.sun_path, F_OK) != 0);
    close(listening);
}

static void hear(void *said, const vmette_notice_t *notice) {
    if (notice->kind == VMETTE_NOTICE_KIND_VSOCK && strstr(notice->text, "over and out") != NULL) {
        __atomic_store_n((bool *)said, true, __ATOMIC_SEQ_CST);
    }
}

// The port that somebody answers at, chosen by vmette.
static void an_echo(void) {
    bool said = false;
    vmette_config_t *config = vmette_config_new_default();
    CHECK(vmette_config_set_vsock_port(config, 0) == Ok);
    CHECK(vmette_config_set_notice_fn(config, hear, &said) == Ok);
    CHECK(vmette_config_set_exec(config, "echo over and out | vsock-send $VMETTE_VSOCK_PORT") == Ok);
    CHECK(vmette_config_set_capture_output(config, true) == Ok);
    vmette_run_output_t *output = NULL;
    CHECK(vmette_run(config, &output) == Ok);
    CHECK(strcmp(vmette_run_output_text(output, NULL), "over and out\n") == 0);
    CHECK(__atomic_load_n(&said, __ATOMIC_SEQ_CST));
    vmette_run_output_free(output);
    vmette_config_free(config);
}

// The same port, with the program itself behind it.
static void no_echo(void) {
    vmette_config_t *config = vmette_config_new_default();
    vmette_command_t *command = vmette_command_new_shell("read go && echo ready | vsock-send $VMETTE_VSOCK_PORT");
    CHECK(vmette_command_set_stdin(command, true) == Ok);
    CHECK(vmette_config_set_vsock_port(config, PORT) == Ok);
    CHECK(vmette_config_set_vsock_echo(config, false) == Ok);
    vmette_session_t *session = NULL;
    vmette_process_t *process = NULL;
    CHECK(vmette_session_start_command(config, command, NULL, &session, &process) == Ok);
    CHECK(vmette_session_vsock_port(session) == PORT);
    vmette_vsock_listener_t *listener = NULL;
    CHECK(vmette_session_vsock_listen(session, PORT, &listener) == Ok);
    CHECK(vmette_process_write_stdin(process, (const uint8_t *)"go\n", 3) == Ok);
    int fd = -1;
    CHECK(vmette_vsock_listener_accept(listener, &fd) == Ok);
    char text[64];
    CHECK(all_read(fd, text, sizeof text) == 6 && strcmp(text, "ready\n") == 0);
    all_written(fd, "seen\n");
    CHECK(close(fd) == 0);
    says(process, "seen\n");
    vmette_vsock_listener_free(listener);
    vmette_session_free(session);
    vmette_command_free(command);
    vmette_config_free(config);
}

static void refused(void) {
    vmette_config_t *config = vmette_config_new_default();
    vmette_session_t *session = NULL;
    CHECK(vmette_config_set_agent(config, true) == Ok);
    CHECK(vmette_config_set_vsock(config, true) == Ok);
    CHECK(vmette_config_set_vsock_port(config, -1) == Ok && vmette_config_set_vsock(config, true) == Ok);
    CHECK(vmette_session_start(config, NULL, &session) == InvalidConfig);
    CHECK_SAID("disabled");
    CHECK(vmette_config_set_vsock_port(config, 0) == Ok);
    CHECK(vmette_config_add_vsock_forward(config, FORWARD, "/no/such/socket") == Ok);
    CHECK(vmette_session_start(config, NULL, &session) == InvalidConfig && session == NULL);
    CHECK_SAID("/no/such/socket");
    vmette_config_free(config);
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    refused();
    a_session(arguments[1]);
    an_echo();
    no_echo();
    return 0;
}
