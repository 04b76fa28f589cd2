// snapshot FOLDER: a machine that is saved in the middle of its session, and two that start from it.

#include "check.h"

static vmette_process_t *run(vmette_session_t *session, const char *line) {
    vmette_command_t *command = vmette_command_new_shell(line);
    CHECK(command != NULL);
    vmette_process_t *process = NULL;
    CHECK(vmette_session_exec(session, command, &process) == Ok);
    vmette_command_free(command);
    return process;
}

static void succeeds(vmette_session_t *session, const char *line) {
    vmette_process_t *process = run(session, line);
    int32_t code = -1;
    CHECK(vmette_process_wait(process, &code) == Ok && code == 0);
    vmette_process_free(process);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    char path[4096];
    snprintf(path, sizeof path, "%s/saved", argv[1]);

    vmette_config_t *config = vmette_config_new_default();
    CHECK(vmette_config_set_agent(config, true) == Ok);
    vmette_session_t *session = NULL;
    CHECK(vmette_session_start(config, NULL, &session) == Ok);
    CHECK(vmette_session_snapshot(session, path) == SaveFailed);
    CHECK_SAID("allow snapshots");
    vmette_session_free(session);

    CHECK(vmette_config_set_allow_snapshot(config, true) == Ok);
    CHECK(vmette_session_start(config, NULL, &session) == Ok);
    succeeds(session, "echo kept > /root/file");
    CHECK(vmette_session_snapshot(session, NULL) == NullArg);
    CHECK(vmette_session_snapshot(session, path) == Ok);
    succeeds(session, "echo later > /root/file");
    vmette_session_free(session);
    vmette_config_free(config);

    config = vmette_config_new_default();
    CHECK(vmette_config_set_resume_snapshot(config, path) == Ok);
    CHECK(vmette_config_set_capture_output(config, true) == Ok);
    CHECK(vmette_config_set_exec(config, "cat /root/file; echo changed > /root/file") == Ok);
    for (int turn = 0; turn < 2; turn++) {
        vmette_run_output_t *output = NULL;
        CHECK(vmette_run(config, &output) == Ok);
        CHECK(strcmp(vmette_run_output_text(output, NULL), "kept\n") == 0);
        vmette_run_output_free(output);
    }
    vmette_config_free(config);
    return 0;
}
