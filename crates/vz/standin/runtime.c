/* The Objective-C runtime and blocks. */
#include "standin.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fault(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("stand-in: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}

/* Selectors: each name once, so that equal ones have equal addresses. */
static pthread_mutex_t names_lock = PTHREAD_MUTEX_INITIALIZER;
static struct name {
    struct name *next;
    char text[];
} *names;

sel sel_registerName(const char *text) {
    pthread_mutex_lock(&names_lock);
    struct name *name = names;
    while (name && strcmp(name->text, text) != 0)
        name = name->next;
    if (!name) {
        name = malloc(sizeof *name + strlen(text) + 1);
        strcpy(name->text, text);
        name->next = names;
        names = name;
    }
    pthread_mutex_unlock(&names_lock);
    return name->text;
}

const char *sel_getName(sel selector) { return selector; }
bool sel_isEqual(sel one, sel other) { return strcmp(one, other) == 0; }

/* Classes. */
static struct class *registered[64];
static int registered_count;

static struct method *find(struct class *class, const char *name) {
    for (; class; class = class->super)
        for (struct method *method = class->methods; method && method->name; method++)
            if (strcmp(method->name, name) == 0)
                return method;
    return NULL;
}

static void *nothing(void) { return NULL; }

static imp lookup(struct class *class, sel selector) {
    struct method *method = find(class, selector);
    if (!method)
        fault("%s%s does not know %s", class->is_meta ? "the class " : "", class->name, selector);
    return method->code;
}

imp objc_msg_lookup(id receiver, sel selector) {
    return receiver ? lookup(receiver->isa, selector) : (imp)nothing;
}
imp objc_msg_lookup_stret(id receiver, sel selector) { return objc_msg_lookup(receiver, selector); }

struct super {
    id receiver;
    struct class *class;
};
imp objc_msg_lookup_super(const struct super *super, sel selector) { return lookup(super->class, selector); }

bool responds(id receiver, const char *selector) { return receiver && find(receiver->isa, selector); }
bool class_respondsToSelector(struct class *class, sel selector) { return find(class, selector) != NULL; }
struct method *class_getInstanceMethod(struct class *class, sel selector) { return find(class, selector); }
struct method *class_getClassMethod(struct class *class, sel selector) { return find(class->isa, selector); }
struct class *object_getClass(id object) { return object ? object->isa : NULL; }
struct class *class_getSuperclass(struct class *class) { return class->super; }
const char *class_getName(struct class *class) { return class->name; }
bool class_isMetaClass(struct class *class) { return class->is_meta; }
size_t class_getInstanceSize(struct class *class) { return class->size; }

struct class *objc_getClass(const char *name) {
    for (int i = 0; i < registered_count; i++)
        if (strcmp(registered[i]->name, name) == 0)
            return registered[i];
    return NULL;
}

struct class *objc_allocateClassPair(struct class *super, const char *name, size_t extra) {
    (void)extra;
    if (objc_getClass(name))
        return NULL;
    struct class *class = calloc(1, sizeof *class), *meta = calloc(1, sizeof *meta);
    *meta = (struct class){&NSObject, super->isa, strdup(name), 0, NULL, 0, NULL, true};
    *class = (struct class){meta, super, meta->name, super->size, NULL, 0, NULL, false};
    return class;
}

void objc_registerClassPair(struct class *class) {
    if (registered_count == 64)
        fault("more than 64 classes");
    registered[registered_count++] = class;
}

bool class_addMethod(struct class *class, sel name, imp code, const char *types) {
    (void)types;
    class->methods = realloc(class->methods, (class->grown + 2) * sizeof *class->methods);
    class->methods[class->grown++] = (struct method){name, code};
    class->methods[class->grown] = (struct method){NULL, NULL};
    return true;
}

bool class_addIvar(struct class *class, const char *name, size_t size, uint8_t alignment, const char *types) {
    (void)types;
    size_t unit = (size_t)1 << alignment;
    struct ivar *ivar = malloc(sizeof *ivar);
    *ivar = (struct ivar){strdup(name), (ptrdiff_t)((class->size + unit - 1) / unit * unit), class->ivars};
    class->ivars = ivar;
    class->size = (size_t)ivar->offset + size;
    return true;
}

struct ivar *class_getInstanceVariable(struct class *class, const char *name) {
    for (; class; class = class->super)
        for (struct ivar *ivar = class->ivars; ivar; ivar = ivar->next)
            if (strcmp(ivar->name, name) == 0)
                return ivar;
    return NULL;
}
ptrdiff_t ivar_getOffset(struct ivar *ivar) { return ivar->offset; }
const char *ivar_getName(struct ivar *ivar) { return ivar->name; }

struct method **class_copyMethodList(struct class *class, unsigned *count) {
    unsigned found = 0;
    while (class->methods && class->methods[found].name)
        found++;
    struct method **list = calloc(found + 1, sizeof *list);
    for (unsigned i = 0; i < found; i++)
        list[i] = &class->methods[i];
    if (count)
        *count = found;
    return list;
}
sel method_getName(struct method *method) { return sel_registerName(method->name); }
imp method_getImplementation(struct method *method) { return method->code; }

/* There are no protocols at run time; a class may say that it conforms to one. */
void *objc_getProtocol(const char *name) {
    (void)name;
    return NULL;
}
bool class_addProtocol(struct class *class, const void *protocol) { return class && protocol; }

/* What the bindings mention and the engine never calls. */
#define UNUSED(NAME)                                                                                                   \
    void NAME(void) { fault("%s is not there", #NAME); }
UNUSED(class_copyIvarList)
UNUSED(class_copyProtocolList)
UNUSED(ivar_getTypeEncoding)
UNUSED(method_copyArgumentType)
UNUSED(method_copyReturnType)
UNUSED(method_getTypeEncoding)
UNUSED(method_setImplementation)
UNUSED(objc_copyClassList)
UNUSED(objc_copyProtocolList)
UNUSED(objc_disposeClassPair)
UNUSED(objc_registerProtocol)
UNUSED(protocol_addMethodDescription)
UNUSED(protocol_addProtocol)
UNUSED(protocol_copyMethodDescriptionList)
UNUSED(protocol_copyProtocolList)
UNUSED(protocol_getName)

/* Lives of objects. */
id new_object(struct class *class) {
    id object = calloc(1, class->size);
    object->isa = class;
    object->refs = 1;
    return object;
}

id objc_retain(id object) {
    if (object && !object->isa->is_meta && object->isa->isa != &NSObject)
        atomic_fetch_add(&object->refs, 1);
    return object;
}
id objc_retainAutoreleasedReturnValue(id object) { return objc_retain(object); }

void objc_release(id object) {
    if (!object)
        return;
    int before = atomic_fetch_sub(&object->refs, 1);
    if (before < 1)
        fault("%s is released once too often", object->isa->name);
    if (before == 1) {
        if (object->weak)
            *object->weak = NULL;
        sel dealloc = sel_registerName("dealloc");
        ((void (*)(id, sel))objc_msg_lookup(object, dealloc))(object, dealloc);
    }
}

void set_weak(id *place, id value) {
    if (*place)
        (*place)->weak = NULL;
    *place = value;
    if (value)
        value->weak = place;
}

/* One pool per push and thread: the objects since then. */
static _Thread_local struct {
    id *objects;
    size_t count, room, depth;
} pool;

id autorelease(id object) {
    /* The system lets it live until the thread ends, which may be never. */
    if (pool.depth == 0)
        fault("%s is autoreleased where no pool is", object->isa->name);
    if (pool.count == pool.room) {
        pool.room = pool.room ? 2 * pool.room : 64;
        pool.objects = realloc(pool.objects, pool.room * sizeof *pool.objects);
    }
    return pool.objects[pool.count++] = object;
}
void *objc_autoreleasePoolPush(void) {
    pool.depth++;
    return (void *)(pool.count + 1);
}
void objc_autoreleasePoolPop(void *mark) {
    pool.depth--;
    while (pool.count > (size_t)mark - 1)
        objc_release(pool.objects[--pool.count]);
    if (pool.count == 0) {
        free(pool.objects);
        pool.objects = NULL;
        pool.room = 0;
    }
}

/* Blocks, as clang's specification lays them out. */
void *_NSConcreteStackBlock[32], *_NSConcreteGlobalBlock[32], *_NSConcreteMallocBlock[32];
enum { ON_HEAP = 1 << 24, HAS_HELPERS = 1 << 25, IS_GLOBAL = 1 << 28, ONE = 2, COUNT = 0xfffe };

struct block {
    void *isa;
    atomic_int flags;
    int reserved;
    void (*invoke)(void);
    struct {
        unsigned long reserved, size;
        void (*copy)(void *, const void *);
        void (*dispose)(const void *);
    } *descriptor;
};

void *_Block_copy(const void *source) {
    struct block *block = (struct block *)source;
    if (!block || block->flags & IS_GLOBAL)
        return block;
    if (block->flags & ON_HEAP) {
        atomic_fetch_add(&block->flags, ONE);
        return block;
    }
    struct block *copy = malloc(block->descriptor->size);
    memcpy(copy, block, block->descriptor->size);
    copy->isa = _NSConcreteMallocBlock;
    copy->flags = (block->flags & ~COUNT) | ON_HEAP | ONE;
    if (copy->flags & HAS_HELPERS)
        block->descriptor->copy(copy, block);
    return copy;
}

void _Block_release(const void *source) {
    struct block *block = (struct block *)source;
    if (!block || !(block->flags & ON_HEAP))
        return;
    if ((atomic_fetch_sub(&block->flags, ONE) & COUNT) == ONE) {
        if (block->flags & HAS_HELPERS)
            block->descriptor->dispose(block);
        free(block);
    }
}
