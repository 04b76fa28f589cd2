// vmette runs untrusted work in a Linux machine of its own: no network, no host files until they are granted, gone
// when it is done. docs/C_API.md is a tour.
//
// Made from crates/capi by `cargo run -p xtask -- header`; do not edit.
//
// Rules that hold for every function
//
// - Strings that go in are NUL-terminated UTF-8 and are borrowed for the time of the call. Handles and strings that come
//   out are the caller's, unless it says "valid until", and go back to the function that frees them, once.
// - A function either succeeds or says why not: it returns a VmetteStatus, or NULL for a handle. Then
//   vmette_last_error_message() has a text for the person at the terminal and vmette_last_error_code() a name for programs.
//   Where a result goes is left alone on failure, unless it says otherwise.
// - NULL for what must be there is the status VMETTE_STATUS_NULL_ARG, a string that is no UTF-8 the status
//   VMETTE_STATUS_INVALID_UTF8 (paths of shares and variables may be any bytes). Other pointers that are not valid are a
//   mistake that no function can notice.
// - Every call blocks until it is done. Sessions, processes, listeners and stop handles may be used from any thread, by
//   several at once; configurations, commands and outputs by one at a time. No handle may be freed while a call uses it.
// - Callbacks may call any function but those that free or change what the running call uses. They return: they must
//   not throw, longjmp or end their thread.
// - No signal handler is installed and none is called because of vmette: a SIGPIPE of its own is kept from the program.
//   It is blocked in a thread while that is in a call, and so in callbacks. The terminal is left alone, and the process
//   never ended.
// - vmette starts processes and reaps them. The program must not reap children that are not its own, nor set SIGCHLD to
//   be ignored. After fork() the child must not use vmette until it has called exec.
// - The environment is read (VMETTE_CACHE_DIR, VMETTE_QEMU, VMETTE_LIBEXEC_DIR, PATH and what registries need): do not
//   change it while another thread is in a call.


#ifndef VMETTE_H
#define VMETTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// What a call came to. vmette_last_error_message() has the text. There may be more in a later version.
//
enum VmetteStatus
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Done.
  VMETTE_STATUS_OK = 0,
  // No machine can be like that.
  VMETTE_STATUS_INVALID_CONFIG = 1,
  // The machine did not come up.
  VMETTE_STATUS_START_FAILED = 2,
  // A saved state could not be restored.
  VMETTE_STATUS_RESTORE_FAILED = 3,
  // A state could not be saved.
  VMETTE_STATUS_SAVE_FAILED = 4,
  // This version, or this engine, has no snapshots of sessions.
  VMETTE_STATUS_SNAPSHOT_UNSUPPORTED = 5,
  // No answer in time.
  VMETTE_STATUS_TIMEOUT = 6,
  // No vsock of that kind.
  VMETTE_STATUS_VSOCK = 7,
  // Another system error.
  VMETTE_STATUS_IO = 8,
  // A pointer that must not be NULL is NULL.
  VMETTE_STATUS_NULL_ARG = 9,
  // A string is no UTF-8.
  VMETTE_STATUS_INVALID_UTF8 = 10,
  // The engine refused: it is not there, too old, has no such accelerator, or cannot use a file.
  VMETTE_STATUS_ENGINE_FAILED = 11,
  // The kernel, the initramfs or the cache folder.
  VMETTE_STATUS_ASSETS_FAILED = 12,
  // The root file system could not be resolved.
  VMETTE_STATUS_ROOTFS_FAILED = 13,
  // The guest refused one request; the session goes on. For a command, vmette_last_error_exit_code() says why.
  VMETTE_STATUS_REQUEST_FAILED = 14,
  // The connection to the guest is gone, or the session has ended.
  VMETTE_STATUS_AGENT_LOST = 15,
  // The session ended because the machine or the connection to it failed.
  VMETTE_STATUS_SESSION_FAILED = 16,
  // It was called off with a vmette_stop_t.
  VMETTE_STATUS_CANCELLED = 17,
  // A mistake of vmette's own. The handles of the call must not be used any more, except to free them.
  VMETTE_STATUS_INTERNAL_ERROR = 18,
  // None of the others.
  VMETTE_STATUS_OTHER_ERROR = 19,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum VmetteStatus VmetteStatus;
#else
typedef int32_t VmetteStatus;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What a notice is about.
enum VmetteNoticeKind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // A step that takes seconds begins.
  VMETTE_NOTICE_KIND_PROGRESS = 0,
  // Something went wrong and was worked around, or should be known.
  VMETTE_NOTICE_KIND_WARNING = 1,
  // Something is being downloaded; `text` is its name.
  VMETTE_NOTICE_KIND_DOWNLOAD = 2,
  // What the guest sent to the port that answers with it: escaped, and bounded.
  VMETTE_NOTICE_KIND_VSOCK = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum VmetteNoticeKind VmetteNoticeKind;
#else
typedef int32_t VmetteNoticeKind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Which of a command's outputs.
enum VmetteStream
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Standard output, or the terminal.
  VMETTE_STREAM_STDOUT = 1,
  // Standard error.
  VMETTE_STREAM_STDERR = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum VmetteStream VmetteStream;
#else
typedef int32_t VmetteStream;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// How a session ended. The first cause wins. There may be more in a later version.
enum VmetteSessionEnd
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Its command exited.
  VMETTE_SESSION_END_EXITED = 0,
  // The time of vmette_config_set_timeout() passed.
  VMETTE_SESSION_END_TIMED_OUT = 1,
  // It was stopped.
  VMETTE_SESSION_END_STOPPED = 2,
  // The machine or the connection to it failed.
  VMETTE_SESSION_END_FAILED = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum VmetteSessionEnd VmetteSessionEnd;
#else
typedef int32_t VmetteSessionEnd;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What may execute the guest.
enum VmetteAccelerator
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // The best there is; emulation where there is no better.
  VMETTE_ACCELERATOR_AUTO = 0,
  // Hardware virtualisation or an error.
  VMETTE_ACCELERATOR_HARDWARE = 1,
  // KVM or an error.
  VMETTE_ACCELERATOR_KVM = 2,
  // QEMU's emulation, even where there is better.
  VMETTE_ACCELERATOR_TCG = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum VmetteAccelerator VmetteAccelerator;
#else
typedef int32_t VmetteAccelerator;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// When the source of a root that is in the cache is asked for something newer.
enum VmettePull
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // When it was asked longer ago than an hour; what is in the cache serves when it cannot be reached.
  VMETTE_PULL_STALE = 0,
  // Each time; not reaching it is an error.
  VMETTE_PULL_ALWAYS = 1,
  // Only when the root is not in the cache.
  VMETTE_PULL_MISSING = 2,
  // Not at all.
  VMETTE_PULL_NEVER = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum VmettePull VmettePull;
#else
typedef int32_t VmettePull;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What a command came to that vmette_process_collect() waited for.
typedef struct vmette_collected_t vmette_collected_t;

// A command for vmette_session_exec() or vmette_session_start_command().
typedef struct vmette_command_t vmette_command_t;

// What a session is to be. Nothing is granted that is not named in it.
//
// A setter that fails leaves its mark: whatever is then asked for with this configuration fails with the same status,
// so that a program which ignores what setters return never runs something else than it asked for. A later success
// of the same vmette_config_set_… function lifts that; a vmette_config_add_… that failed cannot be made undone.
typedef struct vmette_config_t vmette_config_t;

// A command in a session. Its functions may be called from any thread. Its output has to be taken: the guest holds it
// back when about 1 MiB waits.
typedef struct vmette_process_t vmette_process_t;

// What a run came to.
typedef struct vmette_run_output_t vmette_run_output_t;

// A running machine. Its functions may be called from any thread, except for freeing it while another one is called.
typedef struct vmette_session_t vmette_session_t;

// Ends one session from any thread, from the first moment of its start. Until then it calls off the resolving of a
// root.
typedef struct vmette_stop_t vmette_stop_t;

// A port of the host that is open to the guest of one session. Its functions may be called from any thread, but only
// one at a time may wait for a connection.
typedef struct vmette_vsock_listener_t vmette_vsock_listener_t;

// Something that a person may want to know while a root is resolved or a session starts.
typedef struct {
  // What it is about. There may be more kinds in a later version.
  VmetteNoticeKind kind;
  // One line.
  const char *text;
  // Bytes of a download so far.
  uint64_t done;
  // Bytes of it in all; 0 when that is not known. Equal to `done` when it is complete.
  uint64_t total;
} vmette_notice_t;

// Is told what goes on: on the thread that makes the call, on other ones, on several at once. The notice is valid
// until it returns. It must not block for long: vmette_session_free() and a start that fails wait for a call that is
// under way on another thread, and no other one follows. On one of its session's threads it may free the session itself.
typedef void (*vmette_notice_fn)(void *context, const vmette_notice_t *notice);

// Gets a piece of a command's output, on the thread that made the call; the bytes are valid until it returns. The
// command is held back meanwhile. Returns whether to go on: after false the command is killed, and it is not called
// again.
typedef bool (*vmette_output_fn)(void *context,
                                 VmetteStream stream,
                                 const uint8_t *data,
                                 size_t length);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library, `MAJOR.MINOR.PATCH`. A static string.
const char *vmette_version(void);

// The text of the last call of this thread that failed, meant for the person at the terminal; NULL when none has.
// Valid until the next call of this thread that fails, or its end. A call that succeeds leaves it as it is.
const char *vmette_last_error_message(void);

// A name for the kind of error of the last call of this thread that failed; it stays the same from version to version,
// and docs/API.md lists them all. NULL when none has failed, and when the status says everything: an argument that is NULL
// or no UTF-8. Valid as long as vmette_last_error_message() is.
const char *vmette_last_error_code(void);

// The exit status that a shell would give to the last call of this thread that failed: 127 for a command that does
// not exist, 126 for one that cannot be executed, 1 for everything else; 0 when none has failed.
int32_t vmette_last_error_exit_code(void);

// A configuration with one CPU, 512 MiB, the built-in root and no grants. Empty strings stand for the kernel and the
// initramfs that vmette provides. NULL when a string is NULL or no UTF-8. Free it with vmette_config_free().
vmette_config_t *vmette_config_new(const char *kernel,
                                   const char *initramfs);

// As vmette_config_new("", "").
vmette_config_t *vmette_config_new_default(void);

// Frees the configuration. Sessions that were started with it go on. NULL is ignored.
void vmette_config_free(vmette_config_t *config);

// The command line for `/bin/sh` that the session runs; NULL for none.
VmetteStatus vmette_config_set_exec(vmette_config_t *config, const char *command);

// The program and its arguments that the session runs, or arguments of the image's entrypoint if it has one; wins
// over vmette_config_set_exec(). NULL for none.
VmetteStatus vmette_config_set_argv(vmette_config_t *config,
                                    const char *const *argv);

// Takes the place of the image's entrypoint, and drops its command; an array without strings is none at all. NULL
// leaves the image's.
VmetteStatus vmette_config_set_entrypoint(vmette_config_t *config,
                                          const char *const *entrypoint);

// Adds an environment variable, after the image's; a later one of the same name wins. A name is not empty and has no
// `=`. Neither of them need be UTF-8.
VmetteStatus vmette_config_add_env(vmette_config_t *config,
                                   const char *key,
                                   const char *value);

// The folder of the guest in which commands start; NULL: where the image says.
VmetteStatus vmette_config_set_cwd(vmette_config_t *config, const char *path);

// Who runs commands: `name`, `uid`, `name:group` or `uid:gid` of the guest; NULL: who the image says.
VmetteStatus vmette_config_set_user(vmette_config_t *config,
                                    const char *user);

// Whether the command is PID 1 of its namespace, as an init system wants to be.
VmetteStatus vmette_config_set_switch_root(vmette_config_t *config, bool switch_root);

// Whether the session has no command of its own and stays up until it is stopped, whatever the image and the other
// setters say. Commands come with vmette_session_exec().
VmetteStatus vmette_config_set_agent(vmette_config_t *config,
                                     bool agent);

// Whether the command's output is kept rather than passed to this process's stdout and stderr: 1 MiB of it, see
// vmette_run_output_text().
VmetteStatus vmette_config_set_capture_output(vmette_config_t *config,
                                              bool capture);

// Ends the session after that many seconds, counted from its start; 0 for no limit.
VmetteStatus vmette_config_set_timeout(vmette_config_t *config, uint32_t seconds);

// Whether vmette_session_snapshot() may save the session. Its start copies memory for that, and takes a little longer.
VmetteStatus vmette_config_set_allow_snapshot(vmette_config_t *config,
                                              bool allow);

// The new folder into which the machine is saved when its command has ended with 0; NULL for none. Any other end leaves
// no snapshot.
VmetteStatus vmette_config_set_build_snapshot(vmette_config_t *config,
                                              const char *path);

// The folder of a snapshot to start from; NULL for none.
VmetteStatus vmette_config_set_resume_snapshot(vmette_config_t *config, const char *path);

// Grants a host folder, writable, at `/mnt/<tag>`. Tags are letters, digits, `-`, `_` and `.`; `ctl`, `rootfs`,
// `certs` and `agent` are vmette's own.
VmetteStatus vmette_config_add_share(vmette_config_t *config,
                                     const char *tag,
                                     const char *path);

// Grants a host folder at `target` of the guest, or at `/mnt/<tag>` if that is NULL. The host refuses writes to it
// when it is `read_only`.
VmetteStatus vmette_config_add_share_at(vmette_config_t *config,
                                        const char *tag,
                                        const char *path,
                                        const char *target,
                                        bool read_only);

// Grants a raw disk image, read-write.
VmetteStatus vmette_config_add_disk(vmette_config_t *config, const char *path);

// Whether the guest has a network: it then reaches what the host's own network reaches. An engine that cannot keep it away
// from the host's loopback refuses that when the session starts, and a machine with a network cannot be saved.
VmetteStatus vmette_config_set_net(vmette_config_t *config,
                                   bool net);

// The host's vsock port that the guest is told of: below 0 none, and no vsock device; 0 one of 50000 to 59999, or the
// first of vmette_config_add_vsock_forward(); above 0 this one. Unless set there is a device only if one of the functions
// below asks for it.
VmetteStatus vmette_config_set_vsock_port(vmette_config_t *config,
                                          int32_t port);

// Whether the machine has a vsock device although no port asks for one: for vmette_session_vsock_listen() and
// vmette_session_vsock_connect().
VmetteStatus vmette_config_set_vsock(vmette_config_t *config,
                                     bool vsock);

// Whether the session's command finds, at the port that it is told of, somebody who sends back what it sends; the
// notice function is shown that as VMETTE_NOTICE_KIND_VSOCK. True unless set, but not where a forward has that port, nor
// without a command. False leaves the port to vmette_session_vsock_listen().
VmetteStatus vmette_config_set_vsock_echo(vmette_config_t *config,
                                          bool echo);

// Grants a UNIX socket of the host, on which somebody listens: each connection of the guest to that vsock port of the
// host, 1 to 4294967294, becomes one to it.
VmetteStatus vmette_config_add_vsock_forward(vmette_config_t *config,
                                             uint32_t port,
                                             const char *path);

// Makes a UNIX socket on the host that leads into the guest, in a folder that exists: each connection to it, by this user
// only, becomes one to that vsock port of the guest, 1 to 4294967294. It goes with the session.
VmetteStatus vmette_config_add_vsock_connect(vmette_config_t *config,
                                             uint32_t port,
                                             const char *path);

// Of no use any more: snapshots need no vsock port of the guest. Only 1025, which programs for the original say, is taken;
// InvalidConfig for another one.
VmetteStatus vmette_config_set_guest_vsock_port(vmette_config_t *config,
                                                uint32_t port);

// Folder with CA certificates (`*.pem`, `*.crt`, `*.cer`) that the workload trusts; NULL for none.
VmetteStatus vmette_config_set_ca_certs(vmette_config_t *config, const char *path);

// The base of the kernel's command line.
VmetteStatus vmette_config_set_cmdline(vmette_config_t *config, const char *cmdline);

// Virtual CPUs, 1 or more.
VmetteStatus vmette_config_set_vcpus(vmette_config_t *config, uint8_t vcpus);

// Memory in MiB.
VmetteStatus vmette_config_set_mem_mib(vmette_config_t *config, uint64_t mib);

// Size in MiB of a scratch disk that takes the root's writes; 0: they go to the guest's memory.
VmetteStatus vmette_config_set_scratch_mib(vmette_config_t *config, uint64_t mib);

// What may execute the guest: a VmetteAccelerator.
VmetteStatus vmette_config_set_accelerator(vmette_config_t *config, int32_t accelerator);

// Whether a session may start from, and leave behind, a template of a booted machine: true unless set.
VmetteStatus vmette_config_set_template(vmette_config_t *config,
                                        bool enabled);

// The file that gets the guest kernel's messages. The descriptor is duplicated; a negative one is none.
VmetteStatus vmette_config_set_console_fd(vmette_config_t *config,
                                          int32_t fd);

// The cache folder; NULL: the user's.
VmetteStatus vmette_config_set_cache_dir(vmette_config_t *config, const char *path);

// Whether nothing may be fetched over the network on the host.
VmetteStatus vmette_config_set_offline(vmette_config_t *config, bool offline);

// When the source of a root that is in the cache is asked for something newer: a VmettePull.
VmetteStatus vmette_config_set_pull(vmette_config_t *config, int32_t pull);

// PEM file, or folder of them, whose certificates are trusted beside the usual ones when registries and other servers
// are talked to; NULL for none.
VmetteStatus vmette_config_set_registry_ca(vmette_config_t *config,
                                           const char *path);

// Allows a server, `host` or `host:port`, to be talked to without TLS. Those on loopback may in any case.
VmetteStatus vmette_config_add_plain_http(vmette_config_t *config,
                                          const char *server);

// A further kernel module that the guest loads when it boots, for example `kvm-amd`.
VmetteStatus vmette_config_add_module(vmette_config_t *config, const char *module);

// Who is told what goes on while a root is resolved and a session starts and runs; NULL for nobody. `context` is
// passed on as it is. Both must stay valid until the configuration is freed and the sessions started with it are.
VmetteStatus vmette_config_set_notice_fn(vmette_config_t *config,
                                         vmette_notice_fn on_notice,
                                         void *context);

// A host folder as the root; the guest never writes to it. A read-only root has no overlay that takes writes.
VmetteStatus vmette_config_set_rootfs_share(vmette_config_t *config,
                                            const char *path,
                                            bool read_only);

// A squashfs image as the root.
VmetteStatus vmette_config_set_rootfs_squashfs(vmette_config_t *config, const char *path);

// Whether the root is read-only, whatever it is: without an overlay that takes writes.
VmetteStatus vmette_config_set_rootfs_read_only(vmette_config_t *config, bool read_only);

// Resolves a spec such as `python:3.12-alpine`, `./rootfs`, `tar+file:///srv/root.tar.gz` or `builtin`, and makes it
// the root, with how its image wants to be run. It uses what the configuration says by then: cache, offline, pull,
// registry CA, plain HTTP, notices. It may download for minutes; `stop`, which may be NULL, calls that off from
// another thread and is then of no more use. On failure the configuration cannot be used until a root is set.
VmetteStatus vmette_config_resolve_rootfs(vmette_config_t *config,
                                          const char *spec,
                                          const vmette_stop_t *stop);

// A handle for one session that is yet to be started. Free it with vmette_stop_free().
vmette_stop_t *vmette_stop_new(void);

// Frees the handle; the session goes on. NULL is ignored.
void vmette_stop_free(vmette_stop_t *stop);

// Ends the session; nothing happens when it has ended. Returns when its machine is gone. A session that is started
// with the handle later ends at once. May be called from any thread, but not from a signal handler.
VmetteStatus vmette_stop_now(const vmette_stop_t *stop);

// The command's exit status, 128 + n when signal n killed it; 0 for NULL.
int32_t vmette_collected_exit_code(const vmette_collected_t *collected);

// Its standard output: `length` bytes, if that is not NULL, and a NUL behind them. Valid until it is freed. NULL for
// NULL.
const char *vmette_collected_stdout(const vmette_collected_t *collected,
                                    size_t *length);

// Its standard error, in the same way.
const char *vmette_collected_stderr(const vmette_collected_t *collected, size_t *length);

// Frees it. NULL is ignored.
void vmette_collected_free(vmette_collected_t *collected);

// The command's exit status, 128 + n when signal n killed it; 124 for a timeout, 0 for a stop. 0 for NULL.
int32_t vmette_run_output_exit_code(const vmette_run_output_t *output);

// What vmette_config_set_capture_output() kept, stdout and stderr in the order of their arrival, as UTF-8 with `\n` at
// the ends of lines, and a last line that says so if there was more than 1 MiB: `length` bytes, if that is not NULL,
// and a NUL behind them. Empty unless captured. Valid until the output is freed. NULL for NULL.
const char *vmette_run_output_text(const vmette_run_output_t *output,
                                   size_t *length);

// What the run had, as JSON: engine, accelerator, isolation, grants, timings. Valid until the output is freed. NULL
// for NULL, and for a run that ended before its machine was up.
const char *vmette_run_output_report(const vmette_run_output_t *output);

// Frees it. NULL is ignored.
void vmette_run_output_free(vmette_run_output_t *output);

// Runs the configuration's command to its end and stores a new output in `out`, which the caller frees with
// vmette_run_output_free(); on failure `out` is left alone. The command's output goes to this process's stdout and
// stderr unless it is captured. A configuration that has neither a command nor a timeout is refused: it would never
// end.
VmetteStatus vmette_run(const vmette_config_t *config,
                        vmette_run_output_t **out);

// As vmette_run(), with the command's output passed to `on_output`, if that is not NULL, on the calling thread. `stop`,
// if that is not NULL, ends the run from another thread; its exit code is 0 then.
VmetteStatus vmette_run_streaming(const vmette_config_t *config,
                                  const vmette_stop_t *stop,
                                  vmette_output_fn on_output,
                                  void *context,
                                  vmette_run_output_t **out);

// Starts a session and stores it in `out`; the caller frees it with vmette_session_free(). Returns when the root is
// ready and the configuration's command runs, if it has one; its output is captured or passed to this process's stdout
// and stderr. `stop`, if that is not NULL, ends the session from another thread, also while it starts.
//
// A timeout or a stop during the start is not a failure: vmette_session_wait() tells.
VmetteStatus vmette_session_start(const vmette_config_t *config,
                                  const vmette_stop_t *stop,
                                  vmette_session_t **out);

// As vmette_session_start(), with the streams of the session's command left to the caller, who gets it in `process`
// and frees it with vmette_process_free(). `command`, if that is not NULL, takes the place of the configuration's.
// `process` is set to NULL when there is no command, or when the session ended while it started.
VmetteStatus vmette_session_start_command(const vmette_config_t *config,
                                          const vmette_command_t *command,
                                          const vmette_stop_t *stop,
                                          vmette_session_t **out,
                                          vmette_process_t **process);

// Ends the machine, if it still runs, and frees the session; its processes and files are gone when this returns.
// Its processes fail from then on, and still have to be freed. NULL is ignored.
void vmette_session_free(vmette_session_t *session);

// Waits for the session's end and stores how it ended and its exit status: the command's, 124 for a timeout, 0 for a
// stop, 1 for a failure. Either may be NULL. SessionFailed when it failed, with the cause as the text. Any number of
// threads may wait, any number of times.
//
// Output that goes to this process's stdout and stderr belongs to the command: it has exited when all of it was written
// there. Only a timeout or a stop does not wait for a reader that is late.
VmetteStatus vmette_session_wait(const vmette_session_t *session,
                                 VmetteSessionEnd *how,
                                 int32_t *exit_code);

// As vmette_session_wait(), for up to `milliseconds`; Timeout when the session goes on.
VmetteStatus vmette_session_wait_for(const vmette_session_t *session,
                                     uint32_t milliseconds,
                                     VmetteSessionEnd *how,
                                     int32_t *exit_code);

// Ends the session now; nothing happens when it has ended. Returns when its machine is gone.
VmetteStatus vmette_session_stop(const vmette_session_t *session);

// Asks the session's command to end, with the image's stop signal, and ends the session if that has not come about
// within `grace_milliseconds`.
VmetteStatus vmette_session_stop_gently(const vmette_session_t *session,
                                        uint32_t grace_milliseconds);

// Writes the guest's dirty data to its disks and shares, then ends the session. It ends also when this fails.
VmetteStatus vmette_session_shutdown(const vmette_session_t *session);

// Asks the guest whether it is there.
VmetteStatus vmette_session_ping(const vmette_session_t *session);

// Saves the whole machine into the new folder `path`; needs vmette_config_set_allow_snapshot(). The session goes on. A
// failure leaves nothing at `path`: SaveFailed, with the reason as the text.
VmetteStatus vmette_session_snapshot(const vmette_session_t *session,
                                     const char *path);

// Runs one more command and stores it in `out`; the caller frees it with vmette_process_free(). Environment, folder and
// user are the configuration's and the image's, except for those that `command` names.
VmetteStatus vmette_session_exec(const vmette_session_t *session,
                                 const vmette_command_t *command,
                                 vmette_process_t **out);

// The host's port that the guest reaches by vsock; 0 when there is none.
uint32_t vmette_session_vsock_port(const vmette_session_t *session);

// A program, looked up in the guest's PATH, and its arguments, which are at least its name. NULL when a string is NULL
// or no UTF-8, or when there is none. Free it with vmette_command_free().
vmette_command_t *vmette_command_new(const char *const *argv);

// A command line for `/bin/sh -c`; it may be several MiB long. NULL when it is NULL or no UTF-8.
vmette_command_t *vmette_command_new_shell(const char *line);

// Frees it; a process that was started with it goes on. NULL is ignored.
void vmette_command_free(vmette_command_t *command);

// Adds an environment variable; a later one of the same name wins. A name is not empty and has no `=`. Neither of them
// need be UTF-8.
VmetteStatus vmette_command_add_env(vmette_command_t *command,
                                    const char *key,
                                    const char *value);

// Starts it in that folder of the guest (absolute).
VmetteStatus vmette_command_set_cwd(vmette_command_t *command, const char *path);

// Runs it as `name`, `uid`, `name:group` or `uid:gid` of the guest.
VmetteStatus vmette_command_set_user(vmette_command_t *command, const char *user);

// Runs it on a terminal of that size.
VmetteStatus vmette_command_set_tty(vmette_command_t *command, uint16_t rows, uint16_t cols);

// Whether it has a stdin, which vmette_process_write_stdin() feeds; else stdin is empty.
VmetteStatus vmette_command_set_stdin(vmette_command_t *command, bool open);

// Frees it. A command that still runs is killed, unless it is the session's own.
void vmette_process_free(vmette_process_t *process);

// Its process id, as the workload sees it; 0 for NULL.
uint32_t vmette_process_pid(const vmette_process_t *process);

// Waits for output and stores up to `capacity` bytes of it in `buffer`, their number in `length`, and which output
// they are from in `stream`. A `length` of 0 is the end. One thread at a time.
VmetteStatus vmette_process_read(const vmette_process_t *process,
                                 VmetteStream *stream,
                                 uint8_t *buffer,
                                 size_t capacity,
                                 size_t *length);

// Passes all output that vmette_process_read() has not stored to `on_output`, on the calling thread, until the command
// ends.
VmetteStatus vmette_process_stream(const vmette_process_t *process,
                                   vmette_output_fn on_output,
                                   void *context);

// Takes all output that vmette_process_read() has not stored, until the command ends, and stores it, up to `keep` bytes
// of each stream, in a new handle, which the caller frees with vmette_collected_free().
VmetteStatus vmette_process_collect(const vmette_process_t *process,
                                    size_t keep,
                                    vmette_collected_t **out);

// Waits for the command to end and stores its exit status, 128 + n when signal n killed it. Its output must be taken
// meanwhile, by this thread before or by another.
VmetteStatus vmette_process_wait(const vmette_process_t *process,
                                 int32_t *exit_code);

// Feeds its stdin; blocks while the guest holds about 1 MiB that the command has not read. Io when it has ended.
VmetteStatus vmette_process_write_stdin(const vmette_process_t *process,
                                        const uint8_t *data,
                                        size_t length);

// Ends its stdin.
VmetteStatus vmette_process_close_stdin(const vmette_process_t *process);

// Sends a signal (its Linux number) to the command's process group.
VmetteStatus vmette_process_signal(const vmette_process_t *process, int32_t signal);

// Tells its terminal the new size.
VmetteStatus vmette_process_resize(const vmette_process_t *process, uint16_t rows, uint16_t cols);

// Copies what can be read from `fd`, to its end, into a file of the guest: parent folders are made, an existing file
// is replaced when everything has arrived. `mode` is its permission bits. The number of bytes goes to `copied`, if
// that is not NULL. `fd` stays open.
VmetteStatus vmette_session_put(const vmette_session_t *session,
                                const char *path,
                                uint32_t mode,
                                int32_t fd,
                                uint64_t *copied);

// Copies a regular file of the guest to `fd`. Its permission bits go to `mode` and the number of bytes to `copied`,
// where those are not NULL. `fd` stays open. The guest says how much there is: whoever calls this limits what `fd`
// takes.
VmetteStatus vmette_session_get(const vmette_session_t *session,
                                const char *path,
                                int32_t fd,
                                uint32_t *mode,
                                uint64_t *copied);

// Opens a port of the host to the session's guest (context id 2 there) and stores it in `out`; the caller frees it with
// vmette_vsock_listener_free(). `port` is 1 to 4294967294, or 0 for one of 50000 to 59999 that is free. The guest may
// connect from now on; up to 256 connections (64 on macOS) wait for being accepted, further ones are refused. Vsock
// when the machine has no vsock device, see vmette_config_set_vsock(), or when the port is open already; AgentLost when
// the session has ended.
VmetteStatus vmette_session_vsock_listen(const vmette_session_t *session,
                                         uint32_t port,
                                         vmette_vsock_listener_t **out);

// Connects to a port of the guest, 1 to 4294967294, and stores the connection in `fd`: a socket that blocks and that is
// closed on exec. The caller closes it, with close(). Shutting down either direction reaches the other side. Writing
// to it once the guest is gone raises SIGPIPE as with any socket, unless MSG_NOSIGNAL says otherwise. Vsock when nobody
// listens there, or when the machine has no vsock device; Timeout when the guest has not answered within 10 s; AgentLost
// when the session has ended.
VmetteStatus vmette_session_vsock_connect(const vmette_session_t *session,
                                          uint32_t port,
                                          int32_t *fd);

// The listener's port; 0 for NULL.
uint32_t vmette_vsock_listener_port(const vmette_vsock_listener_t *listener);

// Waits for the next connection of the guest and stores it in `fd`, as vmette_session_vsock_connect() does. AgentLost
// when the session has ended: connections that came before are still handed out.
VmetteStatus vmette_vsock_listener_accept(const vmette_vsock_listener_t *listener,
                                          int32_t *fd);

// As vmette_vsock_listener_accept(), for up to `milliseconds`; Timeout when nobody has connected.
VmetteStatus vmette_vsock_listener_accept_for(const vmette_vsock_listener_t *listener,
                                              uint32_t milliseconds,
                                              int32_t *fd);

// Closes the port and frees the listener; connections that were accepted go on. NULL is ignored.
void vmette_vsock_listener_free(vmette_vsock_listener_t *listener);

// Stores what the session had, as JSON: root, engine, accelerator, isolation, reasons, grants, timings. Free it with
// vmette_string_free().
VmetteStatus vmette_session_report(const vmette_session_t *session,
                                   char **json);

// Stores what a session of this configuration would have here, and why not more, as JSON; nothing is started, fetched
// or changed. `ok` in it says whether a session would start. Free it with vmette_string_free().
VmetteStatus vmette_doctor(const vmette_config_t *config,
                           char **json);

// Frees a string that vmette stored. NULL is ignored.
void vmette_string_free(char *string);

// The statuses without a prefix, for programs that know them so. Define VMETTE_NO_SHORT_NAMES before including
// this header to do without, when a name is already another's.
#ifndef VMETTE_NO_SHORT_NAMES
#ifdef __cplusplus
static constexpr VmetteStatus Ok = VMETTE_STATUS_OK;
static constexpr VmetteStatus InvalidConfig = VMETTE_STATUS_INVALID_CONFIG;
static constexpr VmetteStatus StartFailed = VMETTE_STATUS_START_FAILED;
static constexpr VmetteStatus RestoreFailed = VMETTE_STATUS_RESTORE_FAILED;
static constexpr VmetteStatus SaveFailed = VMETTE_STATUS_SAVE_FAILED;
static constexpr VmetteStatus SnapshotUnsupported = VMETTE_STATUS_SNAPSHOT_UNSUPPORTED;
static constexpr VmetteStatus Timeout = VMETTE_STATUS_TIMEOUT;
static constexpr VmetteStatus Vsock = VMETTE_STATUS_VSOCK;
static constexpr VmetteStatus Io = VMETTE_STATUS_IO;
static constexpr VmetteStatus NullArg = VMETTE_STATUS_NULL_ARG;
static constexpr VmetteStatus InvalidUtf8 = VMETTE_STATUS_INVALID_UTF8;
static constexpr VmetteStatus EngineFailed = VMETTE_STATUS_ENGINE_FAILED;
static constexpr VmetteStatus AssetsFailed = VMETTE_STATUS_ASSETS_FAILED;
static constexpr VmetteStatus RootfsFailed = VMETTE_STATUS_ROOTFS_FAILED;
static constexpr VmetteStatus RequestFailed = VMETTE_STATUS_REQUEST_FAILED;
static constexpr VmetteStatus AgentLost = VMETTE_STATUS_AGENT_LOST;
static constexpr VmetteStatus SessionFailed = VMETTE_STATUS_SESSION_FAILED;
static constexpr VmetteStatus Cancelled = VMETTE_STATUS_CANCELLED;
static constexpr VmetteStatus InternalError = VMETTE_STATUS_INTERNAL_ERROR;
static constexpr VmetteStatus OtherError = VMETTE_STATUS_OTHER_ERROR;
#else
enum {
  Ok = VMETTE_STATUS_OK,
  InvalidConfig = VMETTE_STATUS_INVALID_CONFIG,
  StartFailed = VMETTE_STATUS_START_FAILED,
  RestoreFailed = VMETTE_STATUS_RESTORE_FAILED,
  SaveFailed = VMETTE_STATUS_SAVE_FAILED,
  SnapshotUnsupported = VMETTE_STATUS_SNAPSHOT_UNSUPPORTED,
  Timeout = VMETTE_STATUS_TIMEOUT,
  Vsock = VMETTE_STATUS_VSOCK,
  Io = VMETTE_STATUS_IO,
  NullArg = VMETTE_STATUS_NULL_ARG,
  InvalidUtf8 = VMETTE_STATUS_INVALID_UTF8,
  EngineFailed = VMETTE_STATUS_ENGINE_FAILED,
  AssetsFailed = VMETTE_STATUS_ASSETS_FAILED,
  RootfsFailed = VMETTE_STATUS_ROOTFS_FAILED,
  RequestFailed = VMETTE_STATUS_REQUEST_FAILED,
  AgentLost = VMETTE_STATUS_AGENT_LOST,
  SessionFailed = VMETTE_STATUS_SESSION_FAILED,
  Cancelled = VMETTE_STATUS_CANCELLED,
  InternalError = VMETTE_STATUS_INTERNAL_ERROR,
  OtherError = VMETTE_STATUS_OTHER_ERROR,
};
#endif  // __cplusplus
#endif  // VMETTE_NO_SHORT_NAMES

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VMETTE_H */
