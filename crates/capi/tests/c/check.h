// What the programs here have in common: a promise that does not hold ends them, with the place and vmette's own words.
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmette.h"

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            const char *why = vmette_last_error_message();                                                   \
            fprintf(stderr, "%s:%d: not so: %s (last error: %s)\n", __FILE__, __LINE__, #condition,          \
                    why != NULL ? why : "none");                                                             \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

// The last error has this in its text.
#define CHECK_SAID(text) CHECK(strstr(vmette_last_error_message(), text) != NULL)

#endif
