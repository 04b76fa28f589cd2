// What must be there and is not, and strings that are no UTF-8: statuses, everywhere. No machine is started.

#include "check.h"

static const char *const BAD = "a\xff";

static vmette_config_t *config;
static vmette_command_t *command;

// Every function with NULL for everything, and then with NULL for what else must be there.
static void configurations_with_null(void) {
    CHECK(vmette_config_new(NULL, "") == NULL && vmette_config_new("", NULL) == NULL);
    CHECK_SAID("initramfs is NULL");
    vmette_config_free(NULL);
    CHECK(vmette_config_set_cmdline(NULL, "x") == NullArg);
    CHECK_SAID("config is NULL");
    CHECK(vmette_last_error_code() == NULL);
    CHECK(vmette_config_set_rootfs_share(NULL, "/", true) == NullArg);
    CHECK(vmette_config_set_rootfs_squashfs(NULL, "/") == NullArg);
    CHECK(vmette_config_set_rootfs_read_only(NULL, true) == NullArg);
    CHECK(vmette_config_resolve_rootfs(NULL, "builtin", NULL) == NullArg);
    CHECK(vmette_config_add_share(NULL, "t", "/") == NullArg);
    CHECK(vmette_config_add_share_at(NULL, "t", "/", NULL, true) == NullArg);
    CHECK(vmette_config_add_env(NULL, "A", "b") == NullArg);
    CHECK(vmette_config_add_disk(NULL, "/") == NullArg);
    CHECK(vmette_config_add_plain_http(NULL, "a") == NullArg);
    CHECK(vmette_config_add_module(NULL, "a") == NullArg);
    CHECK(vmette_config_set_exec(NULL, "true") == NullArg);
    CHECK(vmette_config_set_argv(NULL, NULL) == NullArg);
    CHECK(vmette_config_set_entrypoint(NULL, NULL) == NullArg);
    CHECK(vmette_config_set_cwd(NULL, NULL) == NullArg);
    CHECK(vmette_config_set_user(NULL, NULL) == NullArg);
    CHECK(vmette_config_set_net(NULL, true) == NullArg);
    CHECK(vmette_config_set_switch_root(NULL, true) == NullArg);
    CHECK(vmette_config_set_agent(NULL, true) == NullArg);
    CHECK(vmette_config_set_capture_output(NULL, true) == NullArg);
    CHECK(vmette_config_set_vsock_port(NULL, 0) == NullArg);
    CHECK(vmette_config_set_guest_vsock_port(NULL, 0) == NullArg);
    CHECK(vmette_config_set_vsock(NULL, true) == NullArg);
    CHECK(vmette_config_set_vsock_echo(NULL, true) == NullArg);
    CHECK(vmette_config_add_vsock_forward(NULL, 1, "/") == NullArg);
    CHECK(vmette_config_add_vsock_connect(NULL, 1, "/") == NullArg);
    CHECK(vmette_config_set_ca_certs(NULL, NULL) == NullArg);
    CHECK(vmette_config_set_timeout(NULL, 0) == NullArg);
    CHECK(vmette_config_set_vcpus(NULL, 1) == NullArg);
    CHECK(vmette_config_set_mem_mib(NULL, 512) == NullArg);
    CHECK(vmette_config_set_scratch_mib(NULL, 0) == NullArg);
    CHECK(vmette_config_set_accelerator(NULL, 0) == NullArg);
    CHECK(vmette_config_set_template(NULL, true) == NullArg);
    CHECK(vmette_config_set_console_fd(NULL, -1) == NullArg);
    CHECK(vmette_config_set_cache_dir(NULL, NULL) == NullArg);
    CHECK(vmette_config_set_offline(NULL, true) == NullArg);
    CHECK(vmette_config_set_pull(NULL, 0) == NullArg);
    CHECK(vmette_config_set_registry_ca(NULL, NULL) == NullArg);
    CHECK(vmette_config_set_allow_snapshot(NULL, true) == NullArg);
    CHECK(vmette_config_set_build_snapshot(NULL, NULL) == NullArg);
    CHECK(vmette_config_set_resume_snapshot(NULL, NULL) == NullArg);
    CHECK(vmette_config_set_notice_fn(NULL, NULL, NULL) == NullArg);

    CHECK(vmette_config_set_cmdline(config, NULL) == NullArg);
    CHECK(vmette_config_set_rootfs_share(config, NULL, true) == NullArg);
    CHECK(vmette_config_set_rootfs_squashfs(config, NULL) == NullArg);
    CHECK(vmette_config_resolve_rootfs(config, NULL, NULL) == NullArg);
    CHECK(vmette_config_add_share(config, NULL, "/") == NullArg);
    CHECK(vmette_config_add_share_at(config, "t", NULL, NULL, true) == NullArg);
    CHECK(vmette_config_add_env(config, "A", NULL) == NullArg);
    CHECK(vmette_config_add_disk(config, NULL) == NullArg);
    CHECK(vmette_config_add_plain_http(config, NULL) == NullArg);
    CHECK(vmette_config_add_module(config, NULL) == NullArg);
    CHECK(vmette_config_add_vsock_forward(config, 1, NULL) == NullArg);
    CHECK(vmette_config_add_vsock_connect(config, 1, NULL) == NullArg);
}

static void the_rest_with_null(void) {
    CHECK(vmette_command_new(NULL) == NULL && vmette_command_new_shell(NULL) == NULL);
    const char *none[] = {NULL};
    CHECK(vmette_command_new(none) == NULL);
    CHECK_SAID("names no program");
    vmette_command_free(NULL);
    CHECK(vmette_command_add_env(NULL, "A", "b") == NullArg && vmette_command_add_env(command, NULL, "b") == NullArg);
    CHECK(vmette_command_set_cwd(NULL, "/") == NullArg && vmette_command_set_cwd(command, NULL) == NullArg);
    CHECK(vmette_command_set_user(NULL, "0") == NullArg && vmette_command_set_user(command, NULL) == NullArg);
    CHECK(vmette_command_set_tty(NULL, 1, 1) == NullArg && vmette_command_set_stdin(NULL, true) == NullArg);

    vmette_run_output_t *output = NULL;
    CHECK(vmette_run(NULL, &output) == NullArg);
    CHECK(vmette_run_streaming(NULL, NULL, NULL, NULL, &output) == NullArg);
    CHECK(vmette_run_streaming(config, NULL, NULL, NULL, NULL) == NullArg);
    CHECK(vmette_run_output_exit_code(NULL) == 0 && vmette_run_output_report(NULL) == NULL);
    size_t length = 1;
    CHECK(vmette_run_output_text(NULL, &length) == NULL && length == 0);
    vmette_run_output_free(NULL);

    vmette_stop_free(NULL);
    CHECK(vmette_stop_now(NULL) == NullArg);
    vmette_stop_t *stop = vmette_stop_new();
    CHECK(stop != NULL);
    vmette_stop_free(stop);

    vmette_session_t *session = NULL;
    vmette_process_t *process = NULL;
    CHECK(vmette_session_start(NULL, NULL, &session) == NullArg);
    CHECK(vmette_session_start(config, NULL, NULL) == NullArg);
    CHECK(vmette_session_start_command(NULL, command, NULL, &session, &process) == NullArg);
    CHECK(vmette_session_start_command(config, command, NULL, &session, NULL) == NullArg);
    CHECK(session == NULL && process == NULL);
    CHECK(vmette_session_wait(NULL, NULL, NULL) == NullArg && vmette_session_wait_for(NULL, 0, NULL, NULL) == NullArg);
    CHECK(vmette_session_stop(NULL) == NullArg && vmette_session_stop_gently(NULL, 0) == NullArg);
    CHECK(vmette_session_shutdown(NULL) == NullArg && vmette_session_ping(NULL) == NullArg);
    CHECK(vmette_session_exec(NULL, command, &process) == NullArg);
    CHECK(vmette_session_snapshot(NULL, "/x") == NullArg);
    CHECK(vmette_session_put(NULL, "/x", 0, 0, NULL) == NullArg);
    CHECK(vmette_session_get(NULL, "/x", 0, NULL, NULL) == NullArg);
    char *json = NULL;
    CHECK(vmette_session_report(NULL, &json) == NullArg && vmette_doctor(NULL, &json) == NullArg && json == NULL);
    CHECK(vmette_session_vsock_port(NULL) == 0);
    int fd = -1;
    vmette_vsock_listener_t *listener = NULL;
    CHECK(vmette_session_vsock_listen(NULL, 1, &listener) == NullArg && listener == NULL);
    CHECK(vmette_session_vsock_connect(NULL, 1, &fd) == NullArg);
    CHECK(vmette_vsock_listener_accept(NULL, &fd) == NullArg);
    CHECK(vmette_vsock_listener_accept_for(NULL, 0, &fd) == NullArg && fd == -1);
    CHECK(vmette_vsock_listener_port(NULL) == 0);
    vmette_vsock_listener_free(NULL);
    vmette_session_free(NULL);
    vmette_string_free(NULL);

    uint8_t buffer[1];
    VmetteStream stream = 0;
    int32_t code = 0;
    vmette_collected_t *collected = NULL;
    CHECK(vmette_process_pid(NULL) == 0);
    CHECK(vmette_process_read(NULL, &stream, buffer, 1, &length) == NullArg);
    CHECK(vmette_process_stream(NULL, NULL, NULL) == NullArg);
    CHECK(vmette_process_collect(NULL, 1, &collected) == NullArg);
    CHECK(vmette_process_wait(NULL, &code) == NullArg);
    CHECK(vmette_process_write_stdin(NULL, buffer, 1) == NullArg && vmette_process_close_stdin(NULL) == NullArg);
    CHECK(vmette_process_signal(NULL, 9) == NullArg && vmette_process_resize(NULL, 1, 1) == NullArg);
    vmette_process_free(NULL);
    CHECK(vmette_collected_exit_code(NULL) == 0 && vmette_collected_stdout(NULL, NULL) == NULL);
    CHECK(vmette_collected_stderr(NULL, &length) == NULL && length == 0);
    vmette_collected_free(NULL);
}

// Every string of every function.
static void no_utf8(void) {
    const char *const bad[] = {"sh", BAD, NULL};
    CHECK(vmette_config_new(BAD, "") == NULL && vmette_config_new("", BAD) == NULL);
    CHECK_SAID("initramfs is not valid UTF-8");
    CHECK(vmette_config_set_cmdline(config, BAD) == InvalidUtf8);
    CHECK(vmette_config_set_rootfs_share(config, BAD, true) == InvalidUtf8);
    CHECK(vmette_config_set_rootfs_squashfs(config, BAD) == InvalidUtf8);
    CHECK(vmette_config_resolve_rootfs(config, BAD, NULL) == InvalidUtf8);
    CHECK(vmette_config_add_share(config, BAD, "/") == InvalidUtf8);
    CHECK(vmette_config_add_share(config, "t", BAD) == Ok);
    CHECK(vmette_config_add_share_at(config, BAD, "/", NULL, true) == InvalidUtf8);
    CHECK(vmette_config_add_share_at(config, "t", BAD, NULL, true) == Ok);
    CHECK(vmette_config_add_share_at(config, "t", "/", BAD, true) == InvalidUtf8);
    CHECK(vmette_config_add_env(config, BAD, "b") == Ok);
    CHECK(vmette_config_add_env(config, "A", BAD) == Ok);
    CHECK(vmette_config_add_disk(config, BAD) == InvalidUtf8);
    CHECK(vmette_config_add_plain_http(config, BAD) == InvalidUtf8);
    CHECK(vmette_config_add_module(config, BAD) == InvalidUtf8);
    CHECK(vmette_config_add_vsock_forward(config, 1, BAD) == InvalidUtf8);
    CHECK(vmette_config_add_vsock_connect(config, 1, BAD) == InvalidUtf8);
    CHECK(vmette_config_set_exec(config, BAD) == InvalidUtf8);
    CHECK(vmette_config_set_argv(config, bad) == InvalidUtf8);
    CHECK(vmette_config_set_entrypoint(config, bad) == InvalidUtf8);
    CHECK(vmette_config_set_cwd(config, BAD) == InvalidUtf8);
    CHECK(vmette_config_set_user(config, BAD) == InvalidUtf8);
    CHECK(vmette_config_set_ca_certs(config, BAD) == InvalidUtf8);
    CHECK(vmette_config_set_cache_dir(config, BAD) == InvalidUtf8);
    CHECK(vmette_config_set_registry_ca(config, BAD) == InvalidUtf8);
    CHECK(vmette_config_set_build_snapshot(config, BAD) == InvalidUtf8);
    CHECK(vmette_config_set_resume_snapshot(config, BAD) == InvalidUtf8);
    CHECK(vmette_command_new(bad) == NULL && vmette_command_new_shell(BAD) == NULL);
    CHECK(vmette_command_add_env(command, BAD, "b") == Ok);
    CHECK(vmette_command_add_env(command, "A", BAD) == Ok);
    CHECK(vmette_command_set_cwd(command, BAD) == InvalidUtf8);
    CHECK(vmette_command_set_user(command, BAD) == InvalidUtf8);
}

static void out_of_range(void) {
    vmette_config_t *fresh = vmette_config_new_default();
    CHECK(vmette_config_add_env(fresh, "1-A.b", "c") == Ok);
    CHECK(vmette_config_add_env(fresh, "", "b") == InvalidConfig);
    CHECK(vmette_config_add_env(fresh, "A=", "b") == InvalidConfig);
    CHECK(vmette_config_set_accelerator(fresh, 4) == InvalidConfig);
    CHECK(vmette_config_set_accelerator(fresh, -1) == InvalidConfig);
    CHECK(vmette_config_set_pull(fresh, 99) == InvalidConfig);
    CHECK_SAID("pull policy 99");
    CHECK(vmette_config_set_console_fd(fresh, 999) == Io);
    vmette_config_free(fresh);
}

// What NULL stands for where it may be.
static void cleared(void) {
    vmette_config_t *fresh = vmette_config_new_default();
    vmette_run_output_t *output = NULL;
    CHECK(vmette_config_set_exec(fresh, BAD) == InvalidUtf8);
    CHECK(vmette_run(fresh, &output) == InvalidUtf8);
    CHECK_SAID("vmette_config_set_exec: command is not valid UTF-8");
    CHECK(vmette_config_set_exec(fresh, "true") == Ok);
    CHECK(vmette_config_set_exec(fresh, NULL) == Ok);
    CHECK(vmette_run(fresh, &output) == InvalidConfig);
    CHECK_SAID("nothing to run");
    CHECK(vmette_config_set_argv(fresh, NULL) == Ok && vmette_config_set_entrypoint(fresh, NULL) == Ok);
    CHECK(vmette_config_set_cwd(fresh, NULL) == Ok && vmette_config_set_user(fresh, NULL) == Ok);
    CHECK(vmette_config_set_ca_certs(fresh, NULL) == Ok && vmette_config_set_cache_dir(fresh, NULL) == Ok);
    CHECK(vmette_config_set_build_snapshot(fresh, NULL) == Ok && vmette_config_set_resume_snapshot(fresh, NULL) == Ok);
    CHECK(vmette_config_set_registry_ca(fresh, NULL) == Ok && vmette_config_set_notice_fn(fresh, NULL, NULL) == Ok);
    CHECK(vmette_config_set_console_fd(fresh, 2) == Ok && vmette_config_set_console_fd(fresh, -1) == Ok);
    vmette_config_free(fresh);
}

int main(void) {
    CHECK(vmette_last_error_message() == NULL && vmette_last_error_exit_code() == 0);
    CHECK(vmette_last_error_code() == NULL);
    CHECK(strlen(vmette_version()) > 0);
    config = vmette_config_new_default();
    command = vmette_command_new_shell("true");
    configurations_with_null();
    the_rest_with_null();
    no_utf8();
    out_of_range();
    cleared();
    vmette_command_free(command);
    vmette_config_free(config);
    return 0;
}
