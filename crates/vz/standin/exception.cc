// Exceptions of Objective-C, as texts. They pass through the frames of C and of the engine as the real ones do.
#include <cstdio>

namespace {
struct thrown {
    char text[256];
};
} // namespace

extern "C" [[noreturn]] void throw_text(const char *text) {
    thrown exception;
    std::snprintf(exception.text, sizeof exception.text, "%s", text);
    throw exception;
}

// What was thrown meanwhile, or null. The text stays until the thread catches the next one.
extern "C" const char *standin_catch(void (*work)(void *), void *context) {
    static thread_local thrown last;
    try {
        work(context);
        return nullptr;
    } catch (const thrown &exception) {
        last = exception;
        return last.text;
    }
}
