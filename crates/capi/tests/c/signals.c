// Signals are the program's own: no handler comes or goes, and a machine that ends while it is written to does not end
// the program, which does nothing about SIGPIPE.
#define _GNU_SOURCE

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "check.h"

static struct sigaction before[NSIG];

static void look(struct sigaction *actions) {
    for (int number = 1; number < NSIG; number++) {
        sigaction(number, NULL, &actions[number]);
    }
}

static void *stop(void *session) {
    CHECK(vmette_session_stop(session) == Ok);
    return NULL;
}

// Writes until the machine that is being ended meanwhile takes no more.
static void written_to_while_it_ends(void) {
    vmette_config_t *config = vmette_config_new_default();
    CHECK(vmette_config_set_agent(config, true) == Ok);
    vmette_session_t *session = NULL;
    CHECK(vmette_session_start(config, NULL, &session) == Ok);
    vmette_command_t *command = vmette_command_new_shell("cat >/dev/null");
    CHECK(vmette_command_set_stdin(command, true) == Ok);
    vmette_process_t *process = NULL;
    CHECK(vmette_session_exec(session, command, &process) == Ok);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, stop, session) == 0);
    static uint8_t bytes[100000];
    VmetteStatus status = Ok;
    while (status == Ok) {
        status = vmette_process_write_stdin(process, bytes, sizeof bytes);
    }
    CHECK(status == AgentLost || status == Io);
    CHECK(pthread_join(thread, NULL) == 0);
    vmette_process_free(process);
    vmette_session_free(session);
    vmette_command_free(command);
    vmette_config_free(config);
}

// A stdout whose reader has gone away is the command's SIGPIPE and not this program's.
static void written_on_to_nobody(void) {
    int ends[2], own = dup(STDOUT_FILENO);
    CHECK(own >= 0 && pipe2(ends, O_CLOEXEC) == 0);
    CHECK(dup2(ends[1], STDOUT_FILENO) == STDOUT_FILENO);
    close(ends[0]);
    close(ends[1]);
    vmette_config_t *config = vmette_config_new_default();
    CHECK(vmette_config_set_exec(config, "while :; do echo again; done") == Ok);
    vmette_run_output_t *output = NULL;
    CHECK(vmette_run(config, &output) == Ok);
    CHECK(vmette_run_output_exit_code(output) == 128 + SIGPIPE);
    vmette_run_output_free(output);
    vmette_config_free(config);
    CHECK(dup2(own, STDOUT_FILENO) == STDOUT_FILENO);
    close(own);
}

// Output that cannot be written is an error, be it less than the pipes on its way hold or more.
static void written_to_a_full_device(void) {
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC), own = dup(STDOUT_FILENO);
    CHECK(full >= 0 && own >= 0 && dup2(full, STDOUT_FILENO) == STDOUT_FILENO);
    close(full);
    const char *commands[] = {"echo short", "yes"};
    for (int i = 0; i < 2; i++) {
        vmette_config_t *config = vmette_config_new_default();
        CHECK(vmette_config_set_exec(config, commands[i]) == Ok);
        vmette_run_output_t *output = NULL;
        CHECK(vmette_run(config, &output) != Ok && output == NULL);
        CHECK_SAID("No space left on device");
        vmette_config_free(config);
    }
    CHECK(dup2(own, STDOUT_FILENO) == STDOUT_FILENO);
    close(own);
}

int main(void) {
    look(before);
    CHECK(before[SIGPIPE].sa_handler == SIG_DFL);
    for (int i = 0; i < 3; i++) {
        written_to_while_it_ends();
    }
    written_on_to_nobody();
    written_to_a_full_device();

    static struct sigaction after[NSIG];
    look(after);
    for (int number = 1; number < NSIG; number++) {
        CHECK(after[number].sa_handler == before[number].sa_handler);
        CHECK(after[number].sa_flags == before[number].sa_flags);
    }
    sigset_t mask, pending;
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &mask) == 0 && sigpending(&pending) == 0);
    CHECK(!sigismember(&mask, SIGPIPE) && !sigismember(&pending, SIGPIPE));
    return 0;
}
