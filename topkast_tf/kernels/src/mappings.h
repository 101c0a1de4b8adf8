// Memory that is mapped from files, and left to them.
#ifndef TOPKAST_MAPPINGS_H_
#define TOPKAST_MAPPINGS_H_

#include <cstdint>

namespace topkast {

// Notes that memory is mapped from a file and shared with it, and that it no longer is.
void NoteMapping(const void* data, int64_t bytes);
void ForgetMapping(const void* data);

// Whether memory begins one of those.
bool IsMapping(const void* data);

// Lets the system take such memory, whose content is in its file; other memory stays as it is.
void LeaveToFile(const void* data);

}  // namespace topkast

#endif  // TOPKAST_MAPPINGS_H_
