/* A stand-in for the parts of macOS that the engine uses: enough of an Objective-C runtime, of Foundation, of dispatch and
 * of Virtualization.framework to run it where none of them is. It is strict where they are: an object that is touched
 * off its machine's queue, an unknown selector, a change of state that is not allowed, each ends the process.
 *
 * A machine is a process: the program that is its kernel (see examples/standin_guest). */
#ifndef STANDIN_H
#define STANDIN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef const char *sel;
typedef void (*imp)(void);

struct method {
    sel name;
    imp code;
};

struct ivar {
    const char *name;
    ptrdiff_t offset;
    struct ivar *next;
};

struct class {
    struct class *isa;
    struct class *super;
    const char *name;
    size_t size;
    /* Ends with a null name; one that grows is allocated. */
    struct method *methods;
    int grown;
    struct ivar *ivars;
    bool is_meta;
};

/* What every object begins with. */
typedef struct object {
    struct class *isa;
    atomic_int refs;
    /* The one weak reference to it, cleared when it goes. */
    struct object **weak;
} object, *id;

/* Ends the process with a message: the engine has done what the system would not forgive. */
void fault(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Raises an exception: what the system's own code does about a mistake of its caller's that it can tell. */
void throw_text(const char *text) __attribute__((noreturn));

sel sel_registerName(const char *name);
imp objc_msg_lookup(id receiver, sel selector);
id objc_retain(id);
void objc_release(id);
id autorelease(id);
void *objc_autoreleasePoolPush(void);
void objc_autoreleasePoolPop(void *);
bool responds(id receiver, const char *selector);
void set_weak(id *place, id value);
void *_Block_copy(const void *block);
void _Block_release(const void *block);

/* A new instance, zeroed, that belongs to the caller. */
id new_object(struct class *);


/* Defines a class as the symbol that the bindings look for, with its methods and those of the class itself. */
#define CLASS(NAME, SUPER, TYPE, METHODS, CLASS_METHODS)                                                               \
    extern struct class NAME __asm__("._OBJC_CLASS_" #NAME);                                                           \
    static struct class NAME##_meta = {&NSObject, &NSObject_meta, #NAME, 0, CLASS_METHODS, 0, 0, true};                \
    struct class NAME = {&NAME##_meta, SUPER, #NAME, sizeof(TYPE), METHODS, 0, 0, false};

extern struct class NSObject_meta;
extern struct class NSObject __asm__("._OBJC_CLASS_NSObject");

/* Foundation. */
struct string {
    object head;
    char *text;
    size_t length;
};
struct data {
    object head;
    unsigned char *bytes;
    size_t length;
};
struct array {
    object head;
    id *items;
    size_t count;
};
struct url {
    object head;
    id path;
};
struct handle {
    object head;
    int fd;
    bool close;
};
id new_string(const char *text);
const char *text_of(id string);
const char *path_of(id url);
id new_data(const void *bytes, size_t length);
id new_array(id *items, size_t count);
id new_error(const char *domain, long code, const char *description, const char *reason);

/* Dispatch. */
typedef struct queue queue;
void dispatch_async_f(queue *, void *context, void (*work)(void *));
void dispatch_retain(queue *);
void dispatch_release(queue *);
/* The queue that the calling thread works for, if any. */
queue *current_queue(void);

#endif
