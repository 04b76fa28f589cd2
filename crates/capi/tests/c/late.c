// A reader of the program's stdout that is late: none of the command's output is lost, and a stop does not wait for it.

#include <fcntl.h>
#include <unistd.h>

#include "check.h"

// More than a pipe holds, and less than what waits in the library: the command can end while nobody reads.
static const char COMMAND[] = "mkfifo /tmp/over 2> /dev/null; seq 1 100000; echo over > /tmp/over";

static vmette_session_t *printed(vmette_stop_t *stop) {
    vmette_config_t *config = vmette_config_new("", "");
    CHECK(vmette_config_set_exec(config, COMMAND) == Ok);
    vmette_session_t *session = NULL;
    CHECK(vmette_session_start(config, stop, &session) == Ok);
    vmette_config_free(config);

    vmette_command_t *command = vmette_command_new_shell("mkfifo /tmp/over 2> /dev/null; read over < /tmp/over");
    vmette_process_t *process = NULL;
    CHECK(vmette_session_exec(session, command, &process) == Ok);
    vmette_command_free(command);
    // A session that has ended meanwhile, which it must not, is found out by whoever waits for it.
    vmette_process_wait(process, NULL);
    vmette_process_free(process);
    return session;
}

int main(void) {
    // As a program leaves it that shares its own end: full is then an error of the write.
    CHECK(fcntl(STDOUT_FILENO, F_SETFL, O_WRONLY | O_NONBLOCK) == 0);
    vmette_session_t *session = printed(NULL);
    CHECK(vmette_session_wait_for(session, 2000, NULL, NULL) == Timeout);
    fputs("read now\n", stderr);
    VmetteSessionEnd how = -1;
    int32_t exit_code = -1;
    CHECK(vmette_session_wait(session, &how, &exit_code) == Ok);
    CHECK(how == VMETTE_SESSION_END_EXITED && exit_code == 0);
    vmette_session_free(session);

    // Of this one's, nobody reads anything.
    vmette_stop_t *stop = vmette_stop_new();
    session = printed(stop);
    CHECK(vmette_stop_now(stop) == Ok);
    CHECK(vmette_session_wait(session, &how, &exit_code) == Ok);
    CHECK(how == VMETTE_SESSION_END_STOPPED);
    vmette_session_free(session);
    vmette_stop_free(stop);
    return 0;
}
