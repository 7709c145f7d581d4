// Scratch memory.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

namespace l2s {

// Memory that is handed out piece by piece; the pieces are aligned to cache lines and not initialised. Each is an allocation of its own, so that they fit
// into what rendering has freed: one large allocation would add to the peak of the process.
class Arena {
  public:
    template <class T> void want(T *&place, int64_t count) {
        static_assert(sizeof(T) == 4, "counted in floats");
        constexpr int64_t ALIGNMENT = 64;  // bytes; whole vectors, and rows of a tile are whole cache lines
        pieces_.emplace_back(new float[size_t(count + ALIGNMENT / 4)]);
        float *piece = pieces_.back().get();
        place = reinterpret_cast<T *>(piece + (ALIGNMENT - reinterpret_cast<uintptr_t>(piece) % ALIGNMENT) / 4);
    }

  private:
    std::vector<std::unique_ptr<float[]>> pieces_;
};

}  // namespace l2s
