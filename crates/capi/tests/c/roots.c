// roots FOLDER: a folder that is shared both ways, and a root of one's own that is resolved by its spec.

#include <unistd.h>

#include "check.h"

// What was told, by kind.
static int told[3];

static void count(void *context, const vmette_notice_t *notice) {
    (void)context;
    CHECK(notice->text != NULL && strlen(notice->text) > 0);
    if (notice->kind <= VMETTE_NOTICE_KIND_DOWNLOAD) {
        __atomic_add_fetch(&told[notice->kind], 1, __ATOMIC_RELAXED);
    }
}

static void run(vmette_config_t *config, const char *command, const char *expected) {
    CHECK(vmette_config_set_exec(config, command) == Ok);
    CHECK(vmette_config_set_capture_output(config, true) == Ok);
    vmette_run_output_t *output = NULL;
    CHECK(vmette_run(config, &output) == Ok);
    if (vmette_run_output_exit_code(output) != 0 || strcmp(vmette_run_output_text(output, NULL), expected) != 0) {
        fprintf(stderr, "%s\nexit code %d and %s", command, vmette_run_output_exit_code(output),
                vmette_run_output_text(output, NULL));
        exit(1);
    }
    vmette_run_output_free(output);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    const char *folder = argv[1];
    vmette_config_t *config = vmette_config_new_default();
    CHECK(vmette_config_add_share(config, "work", folder) == Ok);
    // The built-in root's own userland becomes the root that is resolved below.
    run(config,
        "mkdir -p /tmp/root/bin && cp /bin/busybox /tmp/root/bin/sh && echo archived > /tmp/root/marker && "
        "tar -cf /mnt/work/root.tar -C /tmp/root . && cat /mnt/work/question",
        "shared\n");
    vmette_config_free(config);

    config = vmette_config_new_default();
    CHECK(vmette_config_set_notice_fn(config, count, NULL) == Ok);
    CHECK(vmette_config_add_share_at(config, "work", folder, "/work", true) == Ok);
    char spec[4096];
    snprintf(spec, sizeof spec, "tar+file://%s/root.tar", folder);
    CHECK(vmette_config_resolve_rootfs(config, spec, NULL) == Ok);
    CHECK(told[VMETTE_NOTICE_KIND_PROGRESS] > 0);
    run(config,
        "while read line; do echo $line; done < /marker; while read line; do echo $line; done < /work/question; "
        "echo x 2>/dev/null > /work/forbidden || echo refused",
        "archived\nshared\nrefused\n");

    // A stop that was used calls the resolving off, and the configuration is of no use until it has a root.
    vmette_stop_t *stop = vmette_stop_new();
    CHECK(vmette_stop_now(stop) == Ok);
    const char *archive = strchr(spec, '/') + 2;
    char copy[2048];
    snprintf(copy, sizeof copy, "%.2000s/copy.tar", folder);
    CHECK(link(archive, copy) == 0);
    snprintf(spec, sizeof spec, "tar+file://%s", copy);
    CHECK(vmette_config_resolve_rootfs(config, spec, stop) == Cancelled);
    vmette_run_output_t *output = NULL;
    CHECK(vmette_run(config, &output) == Cancelled && output == NULL);
    vmette_stop_free(stop);
    vmette_config_free(config);

    char *report = NULL;
    config = vmette_config_new_default();
    CHECK(vmette_doctor(config, &report) == Ok);
    CHECK(strstr(report, "\"ok\":true") != NULL && strstr(report, "\"name\":\"accelerator\"") != NULL);
    CHECK(strstr(report, "host folders can be shared") != NULL);
    vmette_string_free(report);
    vmette_config_free(config);
    return 0;
}
