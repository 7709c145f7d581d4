// Which copy of the kernels runs. Chosen once: the best that the CPU has, or what LEARN2SPLAT_ISA (base, avx2, avx512) says.
#pragma once

namespace l2s {

enum class Isa { base, avx2, avx512 };
Isa active_isa();
const char *isa_name();

// Declares the table `name` of type `type` that each instruction set's copy of a kernel file defines in its own namespace.
#define L2S_DECLARE_KERNELS(type, name) \
    namespace base { extern const type name; } \
    namespace avx2 { extern const type name; } \
    namespace avx512 { extern const type name; }

#if defined(L2S_HAVE_AVX512)
#define L2S_KERNELS(name) (active_isa() == Isa::avx512 ? avx512::name : active_isa() == Isa::avx2 ? avx2::name : base::name)
#else
#define L2S_KERNELS(name) (base::name)
#endif

}  // namespace l2s
