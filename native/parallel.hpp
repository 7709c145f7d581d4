// One thread pool for the whole process. parallel_for hands out tasks 0..num_tasks-1 one by one; the caller works too.
//
// torch's CPU operators run on the libgomp that its wheel bundles. Two pools on two cores spin against each other (docs/performance.md: a step took up
// to 20 times longer), so when a libgomp is already loaded we borrow its workers through GOMP_parallel, the stable entry point that GCC's
// `#pragma omp parallel` calls. Without one (macOS, a torch built differently) we use our own threads, which sleep between calls.
#pragma once
#include <cstdint>
#include <type_traits>

namespace l2s {

// Runs fn(task) for each task in [0, num_tasks) on at most num_threads threads. Rethrows the first exception of a task.
// Which thread runs which task is not fixed: tasks must write to disjoint memory, and then results do not depend on num_threads.
void parallel_for_impl(int64_t num_tasks, int num_threads, void (*fn)(void *, int64_t), void *context);

template <class F> void parallel_for(int64_t num_tasks, int num_threads, F &&body) {
    using Body = typename std::remove_reference<F>::type;
    parallel_for_impl(num_tasks, num_threads, [](void *context, int64_t task) { (*static_cast<Body *>(context))(task); }, &body);
}

// "gomp: <path>" or "own threads", for `learn2splat._native.info()`.
const char *pool_description();

}  // namespace l2s
