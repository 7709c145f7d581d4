// See parallel.hpp.
#include "parallel.hpp"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#endif

namespace l2s {
namespace {

struct Job {
    std::atomic<int64_t> next{0};
    int64_t num_tasks;
    void (*fn)(void *, int64_t);
    void *context;
    std::exception_ptr error;
    std::mutex error_mutex;

    void work() {
        for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < num_tasks;) {
            try {
                fn(context, task);
            } catch (...) {
                std::lock_guard<std::mutex> lock(error_mutex);
                if (!error) error = std::current_exception();
                next.store(num_tasks);  // the other threads stop early
            }
        }
    }
};

// Threads that sleep between jobs. One job at a time; a caller that finds the pool busy works alone.
class SleepingPool {
  public:
    bool run(Job &job, int num_threads) {
        std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
        if (!turn.owns_lock()) return false;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            while (static_cast<int>(threads_.size()) < num_threads - 1) threads_.emplace_back([this] { loop(); });
            job_ = &job;
            wanted_ = num_threads - 1;
            ++generation_;
        }
        wake_.notify_all();
        job.work();
        std::unique_lock<std::mutex> lock(mutex_);
        wanted_ = 0;
        done_.wait(lock, [this] { return running_ == 0; });
        job_ = nullptr;
        return true;
    }

  private:
    void loop() {
        uint64_t seen = 0;
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return generation_ != seen; });
            seen = generation_;
            if (wanted_ == 0 || job_ == nullptr) continue;
            --wanted_;
            ++running_;
            Job *job = job_;
            lock.unlock();
            job->work();
            lock.lock();
            if (--running_ == 0) done_.notify_all();
        }
    }

    std::mutex turn_, mutex_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> threads_;
    Job *job_ = nullptr;
    int wanted_ = 0, running_ = 0;
    uint64_t generation_ = 0;
};

SleepingPool &sleeping_pool() {
    static SleepingPool *pool = new SleepingPool;  // never destroyed: its threads may outlive static destruction
    return *pool;
}

using GompParallel = void (*)(void (*)(void *), void *, unsigned, unsigned);

struct Gomp {
    GompParallel parallel = nullptr;
    std::string description = "own threads";

    Gomp() {
#if defined(__linux__)
        std::vector<std::string> paths;
        dl_iterate_phdr(
            [](dl_phdr_info *info, size_t, void *out) {
                if (info->dlpi_name && std::string(info->dlpi_name).find("libgomp") != std::string::npos)
                    static_cast<std::vector<std::string> *>(out)->emplace_back(info->dlpi_name);
                return 0;
            },
            &paths);
        const std::string *best = nullptr;  // torch's own copy if there is one: other wheels bundle a libgomp too
        for (const std::string &path : paths)
            if (!best || path.find("/torch/lib/") != std::string::npos || path.find("/torch.libs/") != std::string::npos) best = &path;
        if (!best) return;
        if (void *handle = dlopen(best->c_str(), RTLD_NOW | RTLD_NOLOAD)) {
            parallel = reinterpret_cast<GompParallel>(dlsym(handle, "GOMP_parallel"));
            if (parallel) description = "gomp: " + *best;
        }
#endif
    }
};

const Gomp &gomp() {
    static const Gomp *found = new Gomp;
    return *found;
}

}  // namespace

void parallel_for_impl(int64_t num_tasks, int num_threads, void (*fn)(void *, int64_t), void *context) {
    if (num_threads > num_tasks) num_threads = static_cast<int>(num_tasks);
    Job job;
    job.num_tasks = num_tasks;
    job.fn = fn;
    job.context = context;
    if (num_threads <= 1) {
        job.work();
    } else if (gomp().parallel) {
        gomp().parallel([](void *data) { static_cast<Job *>(data)->work(); }, &job, static_cast<unsigned>(num_threads), 0);
    } else if (!sleeping_pool().run(job, num_threads)) {
        job.work();
    }
    if (job.error) std::rethrow_exception(job.error);
}

const char *pool_description() { return gomp().description.c_str(); }

}  // namespace l2s
