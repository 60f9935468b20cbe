// What libuip exports; symbols without the mark stay inside the library (-fvisibility=hidden).
#pragma once

#if defined(__GNUC__) || defined(__clang__)
#define UIP_EXPORT __attribute__((visibility("default")))
#else
#define UIP_EXPORT
#endif
