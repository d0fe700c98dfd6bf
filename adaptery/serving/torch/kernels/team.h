// Some threads that compute one thing together.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <omp.h>
#include <sched.h>
#include <thread>

// Waiting for another thread. It is about to be done if it computes, so looking again at once is
// best; it takes long if somebody else has its core, who may be waiting for ours: then give it up.
class Patience {
  public:
    void wait() {
        if (++looks < SPINS)
            pause();
        else
            sched_yield();
    }
    bool lost() const { return looks > SPINS + YIELDS; }

  private:
    static constexpr int SPINS = 2000, YIELDS = 2000;
    int looks = 0;
    static void pause() {
#ifdef __x86_64__
        __builtin_ia32_pause();
#endif
    }
};

// One thread's view of them.
class Team {
  public:
    const int64_t me, size;
    virtual void barrier() = 0;

  protected:
    Team(int64_t me, int64_t size) : me(me), size(size) {}
};

// A thread's part of `count` things, in whole multiples of `unit`.
struct Share {
    int64_t begin, end;
    Share(const Team& team, int64_t count, int64_t unit = 1) {
        int64_t units = (count + unit - 1) / unit;
        begin = std::min(count, units * team.me / team.size * unit);
        end = std::min(count, units * (team.me + 1) / team.size * unit);
    }
};

// Threads of our own, for an engine that multiplies by our own products as well.
class Pool {
  public:
    explicit Pool(int64_t threads) : threads(threads) {
        for (int64_t number = 1; number < threads; number++)
            std::thread([this, number] { serve(number); }).detach();
    }

    template <class F>
    void run(F& work) {
        call = [](void* work, Team& team) { (*(F*)work)(team); };
        argument = &work;
        missing.store(threads - 1, std::memory_order_relaxed);
        turn.fetch_add(1, std::memory_order_seq_cst);
        if (asleep.load(std::memory_order_seq_cst)) turn.notify_all();
        Member mine(*this, 0);
        work(mine);
        for (Patience patience; missing.load(std::memory_order_acquire);) patience.wait();
    }

    std::mutex taken;
    const int64_t threads;

  private:
    struct Member : Team {
        Pool& pool;
        Member(Pool& pool, int64_t number) : Team(number, pool.threads), pool(pool) {}
        void barrier() override {
            uint32_t phase = pool.phase.load(std::memory_order_acquire);
            if (pool.arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
                pool.arrived.store(0, std::memory_order_relaxed);
                pool.phase.store(phase + 1, std::memory_order_release);
                return;
            }
            for (Patience patience; pool.phase.load(std::memory_order_acquire) == phase;)
                patience.wait();
        }
    };

    void (*call)(void*, Team&) = nullptr;
    void* argument = nullptr;
    alignas(64) std::atomic<uint32_t> turn{0};
    alignas(64) std::atomic<int64_t> missing{0};
    alignas(64) std::atomic<int64_t> arrived{0};
    alignas(64) std::atomic<uint32_t> phase{0};
    alignas(64) std::atomic<int64_t> asleep{0};

    void serve(int64_t number) {
        Member mine(*this, number);
        for (uint32_t done = 0;; done++) {
            Patience patience;
            while (turn.load(std::memory_order_acquire) == done)
                if (patience.lost()) {
                    asleep.fetch_add(1, std::memory_order_seq_cst);
                    turn.wait(done, std::memory_order_seq_cst);
                    asleep.fetch_sub(1, std::memory_order_seq_cst);
                } else {
                    patience.wait();
                }
            call(argument, mine);
            missing.fetch_sub(1, std::memory_order_release);
        }
    }
};

inline Pool*& own_pool() {
    static Pool* pool = nullptr;  // to the end of the process
    return pool;
}

// Where others compute: the threads of OpenMP, which torch has already.
struct OpenMp : Team {
    OpenMp() : Team(omp_get_thread_num(), omp_get_num_threads()) {}
    void barrier() override {
#pragma omp barrier
    }
};

struct Alone : Team {
    Alone() : Team(0, 1) {}
    void barrier() override {}
};

// Let all threads do `work`, each with its own Team; this one alone, if it is not `worthwhile`.
template <class F>
void together(bool worthwhile, F work) {
    Pool* pool = own_pool();
    std::unique_lock<std::mutex> taken;
    if (pool) taken = std::unique_lock(pool->taken, std::try_to_lock);
    if (!worthwhile || (pool && !taken)) {
        Alone alone;
        work(alone);
    } else if (pool) {
        pool->run(work);
    } else {
#pragma omp parallel
        {
            OpenMp mine;
            work(mine);
        }
    }
}
