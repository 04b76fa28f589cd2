/* Virtualization.framework: machines, their sockets and their guests, which are processes. */
#include "configuration.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* How long a guest may take to end once its wire is cut. */
enum { GUEST_END_MS = 5000 };

enum state { STOPPED, RUNNING, PAUSED, FAILED, STARTING, PAUSING, RESUMING, STOPPING, SAVING, RESTORING };

/* What is said on the wire to a guest; a connection's descriptor goes with it. A guest that is to be paused answers with
 * its memory. */
enum kind { DIAL = 1, CONNECT, ACCEPTED, REFUSED, PAUSE, PAUSE_NOW };
struct message {
    uint32_t kind, port, number;
};

#define PORTS 32

struct device {
    object head;
    struct machine *machine;
    struct {
        uint32_t port;
        id listener;
    } ports[PORTS];
    /* Handlers of connections that the guest has not answered yet. */
    struct {
        uint32_t number, port;
        void *handler;
        int fd;
    } calls[PORTS];
    uint32_t calls_made;
};

struct guest;

struct machine {
    object head;
    id configuration, delegate, devices;
    struct device *device;
    queue *queue;
    enum state state;
    struct guest *guest;
    bool restored;
    /* What the guest wants to know again when it is restored: a number of its own. */
    uint32_t memory;
    void *stop_handler, *pause_handler;
};

/* A running program. Its thread, its machine and each event on the way hold it. */
struct guest {
    atomic_int refs;
    /* Null once the machine is gone; only looked at on the queue. */
    struct machine *machine;
    queue *queue;
    pid_t pid;
    int wire;
};

struct block {
    void *isa;
    int flags, reserved;
    void (*invoke)(void *, ...);
};

static void confine(struct machine *machine, const char *what) {
    if (current_queue() != machine->queue)
        fault("%s off the machine's queue", what);
}

/* Completion handlers come later, and on the queue. */
struct completion {
    void *handler;
    id error;
};
static void complete_now(void *context) {
    struct completion *completion = context;
    struct block *block = completion->handler;
    ((void (*)(void *, id))block->invoke)(block, completion->error);
    _Block_release(block);
    objc_release(completion->error);
    free(completion);
}
static void complete(struct machine *machine, void *handler, id error) {
    struct completion *completion = malloc(sizeof *completion);
    *completion = (struct completion){handler, error};
    dispatch_async_f(machine->queue, completion, complete_now);
}
static id vz_error(long code, const char *text) { return new_error("VZErrorDomain", code, text, NULL); }

/* Connections. */
struct connection {
    object head;
    struct machine *machine;
    uint32_t port;
    int fd;
};
static int connection_fd(struct connection *self, sel selector) {
    (void)selector;
    /* As it is once a connection is closed. */
    if (!self->machine)
        return -1;
    confine(self->machine, "a connection was used");
    return self->fd;
}
static void connection_dealloc(struct connection *self, sel selector) {
    (void)selector;
    if (self->machine)
        close(self->fd);
    free(self);
}
static struct method connection_methods[] = {
    {"fileDescriptor", (imp)connection_fd},
    {"dealloc", (imp)connection_dealloc},
    {0},
};
CLASS(VZVirtioSocketConnection, &NSObject, struct connection, connection_methods, NULL)

static id new_connection(struct machine *machine, uint32_t port, int fd) {
    struct connection *connection = (struct connection *)new_object(&VZVirtioSocketConnection);
    connection->machine = machine;
    connection->port = port;
    connection->fd = fd;
    return (id)connection;
}

/* Listeners: neither they nor their delegates are held by anybody here. */
struct listener {
    object head;
    id delegate;
};
static void listener_set_delegate(struct listener *self, sel selector, id delegate) {
    (void)selector;
    set_weak(&self->delegate, delegate);
}
static void listener_dealloc(struct listener *self, sel selector) {
    (void)selector;
    set_weak(&self->delegate, NULL);
    free(self);
}
static struct method listener_methods[] = {
    {"setDelegate:", (imp)listener_set_delegate},
    {"dealloc", (imp)listener_dealloc},
    {0},
};
CLASS(VZVirtioSocketListener, &NSObject, struct listener, listener_methods, NULL)

static bool send_message(struct guest *guest, struct message message, int fd) {
    struct iovec data = {&message, sizeof message};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1};
    if (fd >= 0) {
        header.msg_control = control.bytes;
        header.msg_controllen = sizeof control.bytes;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    return sendmsg(guest->wire, &header, MSG_NOSIGNAL) == (ssize_t)sizeof message;
}

/* The device. */
static void device_set_listener(struct device *self, sel selector, id listener, uint32_t port) {
    (void)selector;
    confine(self->machine, "a listener was set");
    for (int i = 0; i < PORTS; i++) {
        if (self->ports[i].listener == NULL || self->ports[i].port == port) {
            self->ports[i].port = port;
            set_weak(&self->ports[i].listener, listener);
            return;
        }
    }
    fault("more than %d ports", PORTS);
}
static void device_remove_listener(struct device *self, sel selector, uint32_t port) {
    (void)selector;
    confine(self->machine, "a listener was removed");
    for (int i = 0; i < PORTS; i++)
        if (self->ports[i].listener && self->ports[i].port == port)
            set_weak(&self->ports[i].listener, NULL);
}

static void call_back(struct device *self, int call, bool accepted) {
    struct block *block = self->calls[call].handler;
    id connection = NULL, error = NULL;
    if (accepted) {
        connection = new_connection(self->machine, self->calls[call].port, self->calls[call].fd);
    } else {
        close(self->calls[call].fd);
        error = new_error("NSPOSIXErrorDomain", ECONNRESET, "The connection was reset by the guest.", NULL);
    }
    self->calls[call].handler = NULL;
    ((void (*)(void *, id, id))block->invoke)(block, connection, error);
    _Block_release(block);
    objc_release(connection);
    objc_release(error);
}

static void device_connect(struct device *self, sel selector, uint32_t port, void *handler) {
    (void)selector;
    confine(self->machine, "a port of the guest was connected to");
    int call = 0;
    while (call < PORTS && self->calls[call].handler)
        call++;
    int ends[2];
    if (call == PORTS || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        fault("too many connections");
    self->calls[call].number = ++self->calls_made;
    self->calls[call].port = port;
    self->calls[call].handler = _Block_copy(handler);
    self->calls[call].fd = ends[0];
    struct message message = {CONNECT, port, self->calls_made};
    bool sent = self->machine->guest && send_message(self->machine->guest, message, ends[1]);
    close(ends[1]);
    if (!sent)
        call_back(self, call, false);
}
static void device_dealloc(struct device *self, sel selector) {
    (void)selector;
    for (int i = 0; i < PORTS; i++)
        set_weak(&self->ports[i].listener, NULL);
    free(self);
}
static struct method device_methods[] = {
    {"setSocketListener:forPort:", (imp)device_set_listener},
    {"removeSocketListenerForPort:", (imp)device_remove_listener},
    {"connectToPort:completionHandler:", (imp)device_connect},
    {"dealloc", (imp)device_dealloc},
    {0},
};
CLASS(VZSocketDevice, &NSObject, object, NULL, NULL)
CLASS(VZVirtioSocketDevice, &VZSocketDevice, struct device, device_methods, NULL)
CLASS(VZNetworkDevice, &NSObject, object, NULL, NULL)

static void dialled(struct machine *machine, uint32_t port, int fd) {
    struct device *device = machine->device;
    struct listener *listener = NULL;
    for (int i = 0; i < PORTS; i++)
        if (device->ports[i].listener && device->ports[i].port == port)
            listener = (struct listener *)device->ports[i].listener;
    if (!listener || !listener->delegate) {
        close(fd);
        return;
    }
    id connection = new_connection(machine, port, fd);
    sel selector = sel_registerName("listener:shouldAcceptNewConnection:fromSocketDevice:");
    bool accept = ((bool (*)(id, sel, id, id, id))objc_msg_lookup(listener->delegate, selector))(
        listener->delegate, selector, (id)listener, connection, (id)device);
    if (!accept)
        shutdown(fd, SHUT_RDWR);
    objc_release(connection);
}

/* Guests. */
static void guest_release(struct guest *guest) {
    if (atomic_fetch_sub(&guest->refs, 1) == 1) {
        close(guest->wire);
        dispatch_release(guest->queue);
        free(guest);
    }
}

struct event {
    struct guest *guest;
    struct message message;
    int fd;
    bool ended;
    int status;
};

static void ended(struct machine *machine, int status) {
    if (machine->guest)
        guest_release(machine->guest);
    machine->guest = NULL;
    for (int i = 0; i < PORTS; i++)
        if (machine->device->calls[i].handler)
            call_back(machine->device, i, false);
    if (machine->pause_handler)
        complete(machine, machine->pause_handler, vz_error(1, "The virtual machine stopped while it was paused."));
    machine->pause_handler = NULL;
    bool asked = machine->state == STOPPING;
    bool well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    machine->state = asked || well ? STOPPED : FAILED;
    if (asked) {
        complete(machine, machine->stop_handler, NULL);
        machine->stop_handler = NULL;
        return;
    }
    id delegate = machine->delegate;
    const char *name = well ? "guestDidStopVirtualMachine:" : "virtualMachine:didStopWithError:";
    if (!responds(delegate, name))
        return;
    sel selector = sel_registerName(name);
    id error = vz_error(1, "The virtual machine stopped unexpectedly.");
    ((void (*)(id, sel, id, id))objc_msg_lookup(delegate, selector))(delegate, selector, (id)machine, error);
    objc_release(error);
}

static void happen(void *context) {
    struct event *event = context;
    struct machine *machine = event->guest->machine;
    if (machine && event->ended) {
        ended(machine, event->status);
    } else if (machine && event->message.kind == DIAL && event->fd >= 0) {
        dialled(machine, event->message.port, event->fd);
        event->fd = -1;
    } else if (machine && machine->state == PAUSING && event->message.kind == PAUSE_NOW) {
        machine->memory = event->message.number;
        kill(event->guest->pid, SIGSTOP);
        machine->state = PAUSED;
        complete(machine, machine->pause_handler, NULL);
        machine->pause_handler = NULL;
    } else if (machine && (event->message.kind == ACCEPTED || event->message.kind == REFUSED)) {
        for (int i = 0; i < PORTS; i++)
            if (machine->device->calls[i].handler && machine->device->calls[i].number == event->message.number)
                call_back(machine->device, i, event->message.kind == ACCEPTED);
    }
    if (event->fd >= 0)
        close(event->fd);
    guest_release(event->guest);
    free(event);
}

static void post(struct guest *guest, struct event event) {
    struct event *copy = malloc(sizeof *copy);
    atomic_fetch_add(&guest->refs, 1);
    event.guest = guest;
    *copy = event;
    dispatch_async_f(guest->queue, copy, happen);
}

/* Reads the wire to its end, then waits for the program's. */
static void *attend(void *argument) {
    struct guest *guest = argument;
    for (;;) {
        struct event event = {.fd = -1};
        struct iovec data = {&event.message, sizeof event.message};
        union {
            char bytes[CMSG_SPACE(sizeof(int))];
            struct cmsghdr align;
        } control;
        struct msghdr header = {
            .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
        ssize_t got = recvmsg(guest->wire, &header, MSG_CMSG_CLOEXEC);
        if (got <= 0 && errno == EINTR && got < 0)
            continue;
        if (got != (ssize_t)sizeof event.message)
            break;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        if (rights && rights->cmsg_type == SCM_RIGHTS)
            memcpy(&event.fd, CMSG_DATA(rights), sizeof event.fd);
        post(guest, event);
    }
    struct pollfd end = {.fd = (int)syscall(434 /* pidfd_open */, guest->pid, 0), .events = POLLIN};
    if (end.fd < 0 || poll(&end, 1, GUEST_END_MS) == 0)
        kill(guest->pid, SIGKILL);
    close(end.fd);
    int status = 0;
    while (waitpid(guest->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    post(guest, (struct event){.fd = -1, .ended = true, .status = status});
    guest_release(guest);
    return NULL;
}

/* Cuts the wire, as pulling the plug would. */
static void unplug(struct guest *guest) {
    kill(guest->pid, SIGCONT);
    shutdown(guest->wire, SHUT_RDWR);
}

static bool boot(struct machine *machine) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return false;
    id handle = slot(slot(item(slot(machine->configuration, SERIAL_PORTS), 0), 0), 0);
    int console = ((struct handle *)handle)->fd;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 0);
    posix_spawn_file_actions_adddup2(&actions, console, 1);
    posix_spawn_file_actions_adddup2(&actions, console, 2);
    char **arguments = arguments_of(machine->configuration, machine->restored, machine->memory);
    pid_t pid = 0;
    int failed = posix_spawn(&pid, arguments[0], &actions, NULL, arguments, environ);
    for (char **argument = arguments; *argument; argument++)
        free(*argument);
    free(arguments);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (failed) {
        close(ends[0]);
        return false;
    }
    struct guest *guest = malloc(sizeof *guest);
    *guest = (struct guest){2, machine, machine->queue, pid, ends[0]};
    dispatch_retain(machine->queue);
    machine->guest = guest;
    pthread_t thread;
    if (pthread_create(&thread, NULL, attend, guest) != 0)
        fault("no thread for a guest");
    pthread_detach(thread);
    return true;
}

/* The machine. */
static id machine_init(struct machine *self, sel selector, id configuration, queue *queue) {
    (void)selector;
    if (current_queue() != queue)
        fault("a machine was made off its queue");
    if (switched(configuration, "standin.make=throw"))
        throw_text("The configuration was asked to throw.");
    self->configuration = objc_retain(configuration);
    self->queue = queue;
    dispatch_retain(queue);
    self->device = (struct device *)new_object(&VZVirtioSocketDevice);
    self->device->machine = self;
    id device = (id)self->device;
    self->devices = new_array(&device, items(slot(configuration, SOCKETS)));
    return (id)self;
}
static void machine_dealloc(struct machine *self, sel selector) {
    (void)selector;
    confine(self, "a machine was released");
    if (self->guest) {
        self->guest->machine = NULL;
        unplug(self->guest);
        guest_release(self->guest);
    }
    _Block_release(self->stop_handler);
    _Block_release(self->pause_handler);
    for (int i = 0; i < PORTS; i++)
        if (self->device->calls[i].handler)
            call_back(self->device, i, false);
    set_weak(&self->delegate, NULL);
    objc_release(self->devices);
    objc_release((id)self->device);
    objc_release(self->configuration);
    dispatch_release(self->queue);
    free(self);
}
static void machine_set_delegate(struct machine *self, sel selector, id delegate) {
    (void)selector;
    confine(self, "a delegate was set");
    set_weak(&self->delegate, delegate);
}
static id machine_devices(struct machine *self, sel selector) {
    (void)selector;
    confine(self, "devices were asked for");
    return self->devices;
}
#define CAN(NAME, CONDITION)                                                                                           \
    static bool NAME(struct machine *self, sel selector) {                                                             \
        (void)selector;                                                                                                \
        confine(self, #NAME);                                                                                          \
        return CONDITION;                                                                                              \
    }
CAN(can_start, self->state == STOPPED || self->state == FAILED)
CAN(can_pause, self->state == RUNNING)
CAN(can_resume, self->state == PAUSED)
CAN(can_stop, self->state == RUNNING || self->state == PAUSED)

static void require(bool possible, const char *what) {
    if (!possible)
        fault("%s in a state that does not allow it", what);
}
static bool machine_has(struct machine *self, const char *word) { return switched(self->configuration, word); }

static void machine_start(struct machine *self, sel selector, void *handler) {
    require(can_start(self, selector), "a start");
    if (machine_has(self, "standin.start=throw"))
        throw_text("The virtual machine was asked to throw.");
    handler = _Block_copy(handler);
    if (machine_has(self, "standin.start=hang")) {
        /* For those who wait for it to hang. */
        char *marker = NULL;
        int file = asprintf(&marker, "%s.starting", path_of(slot(slot(self->configuration, BOOT_LOADER), INITRAMFS)));
        file = file < 0 ? file : open(marker, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        if (file < 0)
            fault("no marker");
        close(file);
        free(marker);
        self->state = STARTING;
        self->stop_handler = handler;
        return;
    }
    bool well = !machine_has(self, "standin.start=fail") && boot(self);
    self->state = well ? RUNNING : STOPPED;
    complete(self, handler, well ? NULL : vz_error(1, "The virtual machine failed to start."));
}
static void machine_pause(struct machine *self, sel selector, void *handler) {
    require(can_pause(self, selector), "a pause");
    self->state = PAUSING;
    self->pause_handler = _Block_copy(handler);
    /* Fails when the guest has ended, which is said in a moment. */
    send_message(self->guest, (struct message){PAUSE, 0, 0}, -1);
}
static void machine_resume(struct machine *self, sel selector, void *handler) {
    require(can_resume(self, selector), "a resumption");
    bool well = true;
    if (self->guest)
        kill(self->guest->pid, SIGCONT);
    else
        well = boot(self);
    self->state = well ? RUNNING : FAILED;
    complete(self, _Block_copy(handler), well ? NULL : vz_error(1, "The virtual machine failed to resume."));
}
static void machine_stop(struct machine *self, sel selector, void *handler) {
    require(can_stop(self, selector), "a stop");
    self->state = STOPPING;
    self->stop_handler = _Block_copy(handler);
    if (self->guest)
        unplug(self->guest);
    else
        ended(self, 0);
}
static void machine_save(struct machine *self, sel selector, id url, void *handler) {
    require(can_resume(self, selector), "a save");
    char *shape = shape_of(self->configuration);
    FILE *file = fopen(path_of(url), "wxe");
    bool well = file && fprintf(file, "%smemory %u\n", shape, self->memory) > 0;
    /* What it has written is still there when it fails. */
    well = file && fclose(file) == 0 && well && !machine_has(self, "standin.save=fail");
    free(shape);
    complete(self, _Block_copy(handler), well ? NULL : vz_error(11, "The virtual machine failed to save."));
}
static void machine_restore(struct machine *self, sel selector, id url, void *handler) {
    require(can_start(self, selector), "a restoration");
    char saved[256] = "", *shape = shape_of(self->configuration);
    FILE *file = fopen(path_of(url), "re");
    bool well = file && fgets(saved, sizeof saved, file) && strcmp(saved, shape) == 0 &&
                fscanf(file, "memory %u", &self->memory) == 1;
    if (file)
        fclose(file);
    free(shape);
    self->state = well ? PAUSED : STOPPED;
    self->restored = well;
    complete(self, _Block_copy(handler), well ? NULL : vz_error(12, "The virtual machine failed to restore."));
}
static bool is_supported(void) { return true; }
static struct method machine_methods[] = {
    {"initWithConfiguration:queue:", (imp)machine_init},
    {"setDelegate:", (imp)machine_set_delegate},
    {"socketDevices", (imp)machine_devices},
    {"canStart", (imp)can_start},
    {"canPause", (imp)can_pause},
    {"canResume", (imp)can_resume},
    {"canStop", (imp)can_stop},
    {"startWithCompletionHandler:", (imp)machine_start},
    {"pauseWithCompletionHandler:", (imp)machine_pause},
    {"resumeWithCompletionHandler:", (imp)machine_resume},
    {"stopWithCompletionHandler:", (imp)machine_stop},
    {"saveMachineStateToURL:completionHandler:", (imp)machine_save},
    {"restoreMachineStateFromURL:completionHandler:", (imp)machine_restore},
    {"dealloc", (imp)machine_dealloc},
    {0},
};
static struct method machine_class_methods[] = {{"isSupported", (imp)is_supported}, {0}};
CLASS(VZVirtualMachine, &NSObject, struct machine, machine_methods, machine_class_methods)
