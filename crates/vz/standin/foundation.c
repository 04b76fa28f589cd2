/* Foundation: what the engine uses of it. */
#include "standin.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* NSObject. */
static id object_alloc(struct class *class, sel selector) {
    (void)selector;
    return new_object(class);
}
static id object_new(struct class *class, sel selector) {
    (void)selector;
    sel init = sel_registerName("init");
    id object = new_object(class);
    return ((id(*)(id, sel))objc_msg_lookup(object, init))(object, init);
}
static id object_self(id self, sel selector) {
    (void)selector;
    return self;
}
static void object_dealloc(id self, sel selector) {
    (void)selector;
    free(self);
}
static bool object_is_kind(id self, sel selector, struct class *class) {
    (void)selector;
    for (struct class *is = self->isa; is; is = is->super)
        if (is == class)
            return true;
    return false;
}
static bool object_responds(id self, sel selector, sel asked) {
    (void)selector;
    return responds(self, asked);
}
static struct method object_methods[] = {
    {"init", (imp)object_self},
    {"self", (imp)object_self},
    {"dealloc", (imp)object_dealloc},
    {"isKindOfClass:", (imp)object_is_kind},
    {"respondsToSelector:", (imp)object_responds},
    {0},
};
static struct method object_class_methods[] = {{"alloc", (imp)object_alloc}, {"new", (imp)object_new}, {0}};
struct class NSObject_meta = {&NSObject, &NSObject, "NSObject", 0, object_class_methods, 0, 0, true};
struct class NSObject = {&NSObject_meta, NULL, "NSObject", sizeof(object), object_methods, 0, 0, false};

#define SUPER_DEALLOC(self) object_dealloc((id)(self), NULL)

/* NSString. */
static id string_init(struct string *self, sel selector, const char *bytes, size_t length, unsigned long encoding) {
    (void)selector;
    if (encoding != 4)
        fault("a string that is not UTF-8");
    self->text = malloc(length + 1);
    memcpy(self->text, bytes, length);
    self->text[length] = 0;
    self->length = length;
    return (id)self;
}
static const char *string_utf8(struct string *self, sel selector) {
    (void)selector;
    return self->text;
}
static size_t string_length(struct string *self, sel selector, unsigned long encoding) {
    (void)selector, (void)encoding;
    return self->length;
}
static void string_dealloc(struct string *self, sel selector) {
    (void)selector;
    free(self->text);
    SUPER_DEALLOC(self);
}
static struct method string_methods[] = {
    {"initWithBytes:length:encoding:", (imp)string_init},
    {"UTF8String", (imp)string_utf8},
    {"lengthOfBytesUsingEncoding:", (imp)string_length},
    {"dealloc", (imp)string_dealloc},
    {0},
};
CLASS(NSString, &NSObject, struct string, string_methods, NULL)

id new_string(const char *text) {
    return string_init((struct string *)new_object(&NSString), NULL, text, strlen(text), 4);
}
const char *text_of(id string) { return string ? ((struct string *)string)->text : ""; }

/* NSData. */
static id data_init(struct data *self, sel selector, const void *bytes, size_t length) {
    (void)selector;
    self->bytes = malloc(length + 1);
    memcpy(self->bytes, bytes, length);
    self->length = length;
    return (id)self;
}
static const void *data_bytes(struct data *self, sel selector) {
    (void)selector;
    return self->bytes;
}
static size_t data_length(struct data *self, sel selector) {
    (void)selector;
    return self->length;
}
static void data_dealloc(struct data *self, sel selector) {
    (void)selector;
    free(self->bytes);
    SUPER_DEALLOC(self);
}
static struct method data_methods[] = {
    {"initWithBytes:length:", (imp)data_init},
    {"bytes", (imp)data_bytes},
    {"length", (imp)data_length},
    {"dealloc", (imp)data_dealloc},
    {0},
};
CLASS(NSData, &NSObject, struct data, data_methods, NULL)

id new_data(const void *bytes, size_t length) {
    return data_init((struct data *)new_object(&NSData), NULL, bytes, length);
}

/* NSArray. */
static id array_init(struct array *self, sel selector, id *items, size_t count) {
    (void)selector;
    self->items = calloc(count + 1, sizeof *self->items);
    for (size_t i = 0; i < count; i++)
        self->items[i] = objc_retain(items[i]);
    self->count = count;
    return (id)self;
}
static size_t array_count(struct array *self, sel selector) {
    (void)selector;
    return self->count;
}
static id array_at(struct array *self, sel selector, size_t index) {
    (void)selector;
    if (index >= self->count)
        fault("item %zu of an array of %zu", index, self->count);
    return self->items[index];
}
static id array_first(struct array *self, sel selector) {
    (void)selector;
    return self->count ? self->items[0] : NULL;
}
static void array_dealloc(struct array *self, sel selector) {
    (void)selector;
    for (size_t i = 0; i < self->count; i++)
        objc_release(self->items[i]);
    free(self->items);
    SUPER_DEALLOC(self);
}
static struct method array_methods[] = {
    {"initWithObjects:count:", (imp)array_init},
    {"count", (imp)array_count},
    {"objectAtIndex:", (imp)array_at},
    {"firstObject", (imp)array_first},
    {"dealloc", (imp)array_dealloc},
    {0},
};
CLASS(NSArray, &NSObject, struct array, array_methods, NULL)

id new_array(id *items, size_t count) {
    return array_init((struct array *)new_object(&NSArray), NULL, items, count);
}

/* NSURL. */
static id url_file(struct class *class, sel selector, id path) {
    (void)selector;
    struct url *url = (struct url *)new_object(class);
    url->path = objc_retain(path);
    return autorelease((id)url);
}
static void url_dealloc(struct url *self, sel selector) {
    (void)selector;
    objc_release(self->path);
    SUPER_DEALLOC(self);
}
static struct method url_methods[] = {{"dealloc", (imp)url_dealloc}, {0}};
static struct method url_class_methods[] = {{"fileURLWithPath:", (imp)url_file}, {0}};
CLASS(NSURL, &NSObject, struct url, url_methods, url_class_methods)

const char *path_of(id url) { return url ? text_of(((struct url *)url)->path) : ""; }

/* NSError. */
struct error {
    object head;
    id domain, description, reason;
    long code;
};
static id error_domain(struct error *self, sel selector) {
    (void)selector;
    return self->domain;
}
static id error_description(struct error *self, sel selector) {
    (void)selector;
    return self->description;
}
static id error_reason(struct error *self, sel selector) {
    (void)selector;
    return self->reason;
}
static long error_code(struct error *self, sel selector) {
    (void)selector;
    return self->code;
}
static void error_dealloc(struct error *self, sel selector) {
    (void)selector;
    objc_release(self->domain);
    objc_release(self->description);
    objc_release(self->reason);
    SUPER_DEALLOC(self);
}
static struct method error_methods[] = {
    {"domain", (imp)error_domain},
    {"code", (imp)error_code},
    {"localizedDescription", (imp)error_description},
    {"localizedFailureReason", (imp)error_reason},
    {"dealloc", (imp)error_dealloc},
    {0},
};
CLASS(NSError, &NSObject, struct error, error_methods, NULL)
id NSLocalizedDescriptionKey;

id new_error(const char *domain, long code, const char *description, const char *reason) {
    struct error *error = (struct error *)new_object(&NSError);
    error->domain = new_string(domain);
    error->description = new_string(description);
    error->reason = reason ? new_string(reason) : NULL;
    error->code = code;
    return (id)error;
}

/* NSFileHandle. */
static id handle_init(struct handle *self, sel selector, int fd, bool close) {
    (void)selector;
    if (fcntl(fd, F_GETFD) < 0)
        fault("a file handle without a file");
    self->fd = fd;
    self->close = close;
    return (id)self;
}
static void handle_dealloc(struct handle *self, sel selector) {
    (void)selector;
    if (self->close)
        close(self->fd);
    SUPER_DEALLOC(self);
}
static struct method handle_methods[] = {
    {"initWithFileDescriptor:closeOnDealloc:", (imp)handle_init},
    {"dealloc", (imp)handle_dealloc},
    {0},
};
CLASS(NSFileHandle, &NSObject, struct handle, handle_methods, NULL)

/* NSProcessInfo: a Mac with macOS 14.5. */
struct version {
    long major, minor, patch;
};
static id info_shared(struct class *class, sel selector);
static struct version info_version(id self, sel selector) {
    (void)self, (void)selector;
    return (struct version){14, 5, 0};
}
static id info_version_text(id self, sel selector) {
    (void)self, (void)selector;
    return autorelease(new_string("Version 14.5 (Build 23F79)"));
}
static struct method info_methods[] = {
    {"operatingSystemVersion", (imp)info_version},
    {"operatingSystemVersionString", (imp)info_version_text},
    {0},
};
static struct method info_class_methods[] = {{"processInfo", (imp)info_shared}, {0}};
CLASS(NSProcessInfo, &NSObject, object, info_methods, info_class_methods)

static id info_shared(struct class *class, sel selector) {
    (void)class, (void)selector;
    static object info = {&NSProcessInfo, 1, NULL};
    return &info;
}

/* Classes that the bindings name and the engine never uses. */
CLASS(NSConstantString, &NSObject, object, NULL, NULL)
CLASS(NSFileSecurity, &NSObject, object, NULL, NULL)
CLASS(NSMutableData, &NSObject, object, NULL, NULL)
CLASS(NSMutableString, &NSObject, object, NULL, NULL)
CLASS(NSPipe, &NSObject, object, NULL, NULL)
CLASS(NSPurgeableData, &NSObject, object, NULL, NULL)
CLASS(NSSimpleCString, &NSObject, object, NULL, NULL)
CLASS(NSURLComponents, &NSObject, object, NULL, NULL)
CLASS(NSURLQueryItem, &NSObject, object, NULL, NULL)
