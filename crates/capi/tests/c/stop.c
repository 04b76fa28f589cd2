// Ends that come from another thread.

#include <pthread.h>
#include <unistd.h>

#include "check.h"

static vmette_stop_t *stop;

// Ends the run as soon as its command says something.
static bool stop_at_output(void *context, VmetteStream stream, const uint8_t *data, size_t length) {
    (void)stream, (void)data, (void)length;
    pthread_cond_signal(context);
    return true;
}

static bool stop_from_within(void *context, VmetteStream stream, const uint8_t *data, size_t length) {
    (void)stream, (void)data, (void)length;
    CHECK(vmette_stop_now(context) == Ok);
    return true;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t said = PTHREAD_COND_INITIALIZER;

static void *stop_when_it_runs(void *unused) {
    (void)unused;
    pthread_mutex_lock(&lock);
    pthread_cond_wait(&said, &lock);
    pthread_mutex_unlock(&lock);
    CHECK(vmette_stop_now(stop) == Ok);
    CHECK(vmette_stop_now(stop) == Ok);
    return NULL;
}

static void a_run(void) {
    vmette_config_t *config = vmette_config_new_default();
    CHECK(vmette_config_set_exec(config, "while :; do echo running; sleep 1; done") == Ok);
    stop = vmette_stop_new();
    pthread_t thread;
    pthread_mutex_lock(&lock);
    CHECK(pthread_create(&thread, NULL, stop_when_it_runs, NULL) == 0);
    pthread_mutex_unlock(&lock);
    vmette_run_output_t *output = NULL;
    CHECK(vmette_run_streaming(config, stop, stop_at_output, &said, &output) == Ok);
    CHECK(vmette_run_output_exit_code(output) == 0);
    pthread_join(thread, NULL);
    vmette_run_output_free(output);

    // A handle is for one session: a second one would end at once.
    CHECK(vmette_run_streaming(config, stop, NULL, NULL, &output) == InvalidConfig);
    CHECK_SAID("vmette_stop_t");
    vmette_stop_free(stop);

    // A callback may end the run that it is called by.
    stop = vmette_stop_new();
    CHECK(vmette_run_streaming(config, stop, stop_from_within, stop, &output) == Ok);
    CHECK(vmette_run_output_exit_code(output) == 0);
    vmette_run_output_free(output);
    vmette_stop_free(stop);

    // One that was used before the start ends the session then, which is no failure.
    stop = vmette_stop_new();
    CHECK(vmette_stop_now(stop) == Ok);
    CHECK(vmette_run_streaming(config, stop, NULL, NULL, &output) == Ok);
    CHECK(vmette_run_output_exit_code(output) == 0 && vmette_run_output_report(output) == NULL);
    vmette_run_output_free(output);
    vmette_stop_free(stop);
    vmette_config_free(config);
}

static void *wait_for_end(void *session) {
    VmetteSessionEnd how = -1;
    CHECK(vmette_session_wait(session, &how, NULL) == Ok);
    CHECK(how == VMETTE_SESSION_END_STOPPED);
    return NULL;
}

static void a_session(void) {
    vmette_config_t *config = vmette_config_new_default();
    CHECK(vmette_config_set_agent(config, true) == Ok);
    vmette_session_t *session = NULL;
    CHECK(vmette_session_start(config, NULL, &session) == Ok);
    pthread_t waiting[3];
    for (int i = 0; i < 3; i++) {
        CHECK(pthread_create(&waiting[i], NULL, wait_for_end, session) == 0);
    }
    CHECK(vmette_session_stop(session) == Ok);
    CHECK(vmette_session_stop(session) == Ok);
    for (int i = 0; i < 3; i++) {
        CHECK(pthread_join(waiting[i], NULL) == 0);
    }
    vmette_session_free(session);
    vmette_config_free(config);
}

static void gently(void) {
    vmette_config_t *config = vmette_config_new_default();
    vmette_command_t *command = vmette_command_new_shell("trap 'echo asked; exit 4' TERM; echo ready; while :; do sleep 1; done");
    vmette_session_t *session = NULL;
    vmette_process_t *process = NULL;
    CHECK(vmette_session_start_command(config, command, NULL, &session, &process) == Ok);
    uint8_t buffer[16];
    size_t length = 0;
    VmetteStream stream = 0;
    CHECK(vmette_process_read(process, &stream, buffer, sizeof buffer, &length) == Ok && length == 6);
    CHECK(vmette_session_stop_gently(session, 60000) == Ok);
    VmetteSessionEnd how = -1;
    int32_t code = -1;
    CHECK(vmette_session_wait(session, &how, &code) == Ok);
    CHECK(how == VMETTE_SESSION_END_EXITED && code == 4);
    vmette_process_free(process);
    vmette_session_free(session);
    vmette_command_free(command);
    vmette_config_free(config);
}

int main(void) {
    a_run();
    a_session();
    gently();
    return 0;
}
