/*
 * Lists a tree, one line a name: everything that an image says of it. The same program lists on the host and in the
 * guest, where it is the only one that is sure to run: it is static, and an image need not hold any program.
 *
 *   list FOLDER         lists the folder
 *   list --below-mounts lists the root alone, as it is below everything that is mounted on it
 *
 * A line has these fields, separated by blanks; bytes that would make it ambiguous are written as %XX:
 *   path type mode uid:gid size mtime content first-name extended-attributes…
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Of linux/mount.h, which older C libraries clash with. */
#define CLONE_ONE_MOUNT 1

/* Files that have several names, and the first of these. */
struct shared {
    dev_t dev;
    ino_t ino;
    char *first;
};
static struct shared *shared;
static size_t shared_len;

static void put(const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = bytes[i];
        if (c > ' ' && c < 127 && c != '%')
            putchar(c);
        else
            printf("%%%02x", c);
    }
}

static void *grow(void *old, size_t size)
{
    void *new = realloc(old, size);
    if (!new)
        err(1, "out of memory");
    return new;
}

static const char *first_name(const struct stat *st, const char *path)
{
    if (S_ISDIR(st->st_mode) || st->st_nlink < 2)
        return path;
    for (size_t i = 0; i < shared_len; i++)
        if (shared[i].dev == st->st_dev && shared[i].ino == st->st_ino)
            return shared[i].first;
    shared = grow(shared, (shared_len + 1) * sizeof *shared);
    shared[shared_len] = (struct shared){st->st_dev, st->st_ino, strdup(path)};
    return shared[shared_len++].first;
}

/* FNV-1a: told apart are accidents, which is all that there is between two listings of our own. */
static uint64_t content_of(const char *path, off_t size)
{
    static unsigned char buffer[1 << 16];
    uint64_t hash = 0xcbf29ce484222325;
    off_t all = 0;
    int fd = open(path, O_RDONLY | O_NOFOLLOW);
    if (fd < 0)
        err(1, "open %s", path);
    for (;;) {
        ssize_t got = read(fd, buffer, sizeof buffer);
        if (got < 0)
            err(1, "read %s", path);
        if (got == 0)
            break;
        for (ssize_t i = 0; i < got; i++)
            hash = (hash ^ buffer[i]) * 0x100000001b3;
        all += got;
    }
    close(fd);
    if (all != size)
        errx(1, "%s has %jd bytes and says %jd", path, (intmax_t)all, (intmax_t)size);
    return hash;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void put_xattrs(const char *path)
{
    static char list[1 << 16], value[1 << 16];
    const char *names[1024];
    size_t count = 0;
    ssize_t len = llistxattr(path, list, sizeof list);
    if (len < 0 && errno != ENOTSUP)
        err(1, "llistxattr %s", path);
    for (ssize_t at = 0; at < len; at += strlen(list + at) + 1) {
        if (count == sizeof names / sizeof *names)
            errx(1, "%s has too many extended attributes", path);
        names[count++] = list + at;
    }
    qsort(names, count, sizeof *names, by_bytes);
    for (size_t i = 0; i < count; i++) {
        ssize_t size = lgetxattr(path, names[i], value, sizeof value);
        if (size < 0)
            err(1, "lgetxattr %s %s", path, names[i]);
        putchar(' ');
        put(names[i], strlen(names[i]));
        putchar('=');
        put(value, size);
    }
}

static void put_line(const char *path, const struct stat *st)
{
    static char target[1 << 16];
    const char *types[] = {[S_IFREG >> 12] = "file", [S_IFDIR >> 12] = "dir",    [S_IFLNK >> 12] = "link",
                           [S_IFCHR >> 12] = "char", [S_IFBLK >> 12] = "block",  [S_IFIFO >> 12] = "fifo",
                           [S_IFSOCK >> 12] = "socket"};
    const char *type = types[(st->st_mode & S_IFMT) >> 12], *first = first_name(st, path);
    int has_size = S_ISREG(st->st_mode) || S_ISLNK(st->st_mode);
    put(path, strlen(path));
    /* A folder's size and time are the file system's, not the image's. */
    printf(" %s %04o %u:%u %jd %jd ", type, st->st_mode & 07777, st->st_uid, st->st_gid,
           has_size ? (intmax_t)st->st_size : 0, S_ISDIR(st->st_mode) ? 0 : (intmax_t)st->st_mtime);
    if (S_ISREG(st->st_mode)) {
        printf("%016" PRIx64, content_of(path, st->st_size));
    } else if (S_ISLNK(st->st_mode)) {
        ssize_t len = readlink(path, target, sizeof target);
        if (len < 0)
            err(1, "readlink %s", path);
        put(target, len);
    } else if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
        printf("%u,%u", major(st->st_rdev), minor(st->st_rdev));
    } else {
        putchar('-');
    }
    putchar(' ');
    put(first, strlen(first));
    put_xattrs(path);
    putchar('\n');
}

static void walk(const char *path)
{
    struct stat st;
    if (lstat(path, &st))
        err(1, "lstat %s", path);
    put_line(path, &st);
    if (!S_ISDIR(st.st_mode))
        return;
    DIR *dir = opendir(path);
    if (!dir)
        err(1, "opendir %s", path);
    char **names = NULL;
    size_t count = 0;
    struct dirent *entry;
    while ((errno = 0, entry = readdir(dir))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        names = grow(names, (count + 1) * sizeof *names);
        if (asprintf(&names[count++], "%s/%s", path, entry->d_name) < 0)
            err(1, "out of memory");
    }
    if (errno)
        err(1, "readdir %s", path);
    closedir(dir);
    qsort(names, count, sizeof *names, by_bytes);
    for (size_t i = 0; i < count; i++) {
        walk(names[i]);
        free(names[i]);
    }
    free(names);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        errx(2, "usage: list FOLDER | --below-mounts");
    if (!strcmp(argv[1], "--below-mounts")) {
        /* A mount of its own, without those on top of it. */
        int fd = syscall(SYS_open_tree, AT_FDCWD, "/", CLONE_ONE_MOUNT);
        if (fd < 0 || fchdir(fd))
            err(1, "open_tree /");
    } else if (chdir(argv[1])) {
        err(1, "%s", argv[1]);
    }
    walk(".");
    if (fflush(stdout) || ferror(stdout))
        err(1, "stdout");
    return 0;
}
