/* Compiled as C and as C++, with the names that have no prefix and without them. */

#ifdef VMETTE_NO_SHORT_NAMES
enum others_names { Ok = 70, Io = 71, Timeout = 72 };
#endif

#include <vmette.h>

#ifndef VMETTE_NO_SHORT_NAMES
/* An array of negative size is an error: they are constants, of the same values. */
#define SAME(one, other) ((int)(one) == (int)(other))
typedef char same[SAME(Ok, VMETTE_STATUS_OK) && SAME(Io, VMETTE_STATUS_IO) && SAME(InvalidUtf8, VMETTE_STATUS_INVALID_UTF8)
                          && SAME(OtherError, VMETTE_STATUS_OTHER_ERROR) && SAME(NullArg, 9)
                      ? 1
                      : -1];
#endif

const char *name_of(VmetteStatus status);

const char *name_of(VmetteStatus status) {
#ifndef VMETTE_NO_SHORT_NAMES
    VmetteStatus first = Ok;
    if (status == first) {
        return "ok";
    }
#endif
    switch (status) {
    case VMETTE_STATUS_TIMEOUT:
        return "timeout";
    default:
        return "another";
    }
}
