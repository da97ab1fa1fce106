// s2d.h for C++11 and later: handles that close themselves, std::string, and exceptions. What holds there holds here.
#ifndef S2D_HPP
#define S2D_HPP

#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "s2d.h"

namespace s2d {

// What a function of s2d.h returned and said.
struct Error : std::runtime_error {
    explicit Error(int code) : std::runtime_error(s2d_last_error()), status(code) {}
    int status;
};

inline int check(int status)
{
    if (status < 0)
        throw Error(status);
    return status;
}

inline s2d_params params()
{
    s2d_params made;
    check(s2d_params_default(&made, sizeof made));
    return made;
}

inline s2d_options options()
{
    s2d_options made;
    check(s2d_options_default(&made, sizeof made));
    return made;
}

// One in a process; the last of a program's s2d objects to be destroyed.
class Library {
public:
    explicit Library(const s2d_params &given = s2d::params())
    {
        if (s2d_abi_version() != S2D_ABI_VERSION)
            throw std::runtime_error("libs2d.so is of another version than s2d.hpp; compile the program again");
        check(s2d_init(&given));
    }
    ~Library() { s2d_shutdown(); }
    Library(const Library &) = delete;
    Library &operator=(const Library &) = delete;
};

class Draft {
public:
    explicit Draft(const std::string &path)
    {
        s2d_draft *made;
        check(s2d_draft_open(path.c_str(), &made));
        handle.reset(made);
    }
    const s2d_draft *get() const { return handle.get(); }

private:
    struct Close { void operator()(s2d_draft *draft) const { s2d_draft_close(draft); } };
    std::unique_ptr<s2d_draft, Close> handle;
};

class Target {
public:
    explicit Target(const std::string &path, const Draft *draft = nullptr)
    {
        s2d_target *made;
        check(s2d_target_open(path.c_str(), draft ? draft->get() : nullptr, &made));
        handle.reset(made);
    }
    const s2d_target *get() const { return handle.get(); }

    s2d_target_facts facts() const
    {
        s2d_target_facts made;
        check(s2d_target_info(get(), &made, sizeof made));
        return made;
    }

    std::vector<int32_t> tokenize(const std::string &text, bool special_tokens = true) const
    {
        std::vector<int32_t> tokens(text.size() + 8); // a token has at least one byte
        size_t count = 0;
        int status = s2d_tokenize(get(), text.c_str(), special_tokens, tokens.data(), tokens.size(), &count);
        if (status != S2D_ERROR_BUFFER)
            check(status);
        tokens.resize(count);
        if (status == S2D_ERROR_BUFFER)
            check(s2d_tokenize(get(), text.c_str(), special_tokens, tokens.data(), tokens.size(), &count));
        return tokens;
    }

    std::string detokenize(const std::vector<int32_t> &tokens) const
    {
        return text([&](char *data, size_t capacity, size_t *length) {
            return s2d_detokenize(get(), tokens.data(), tokens.size(), data, capacity, length);
        });
    }

    std::string chat(const std::vector<s2d_message> &messages) const
    {
        return text([&](char *data, size_t capacity, size_t *length) {
            return s2d_chat_render(get(), messages.data(), messages.size(), data, capacity, length);
        });
    }

private:
    template <typename Fill> static std::string text(Fill fill)
    {
        std::string made(1024, '\0');
        size_t length = 0;
        int status = fill(&made[0], made.size(), &length);
        if (status == S2D_ERROR_BUFFER) {
            made.resize(length + 1);
            status = fill(&made[0], made.size(), &length);
        }
        check(status);
        made.resize(length);
        return made;
    }
    struct Close { void operator()(s2d_target *target) const { s2d_target_close(target); } };
    std::unique_ptr<s2d_target, Close> handle;
};

class Request {
public:
    Request(const Target &target, const std::string &prompt, const s2d_options &options = s2d::options())
    {
        s2d_request *made;
        check(s2d_request_create(target.get(), prompt.c_str(), &options, &made));
        handle.reset(made);
    }
    Request(const Target &target, const std::vector<int32_t> &prompt, const s2d_options &options = s2d::options())
    {
        s2d_request *made;
        check(s2d_request_create_tokens(target.get(), prompt.data(), prompt.size(), &options, &made));
        handle.reset(made);
    }

    // The next step, valid until the next call; null when the text has ended.
    const s2d_step *next()
    {
        const s2d_step *step = nullptr;
        return check(s2d_request_next(handle.get(), -1, &step)) == S2D_OK ? step : nullptr;
    }

    // Call `take(step)` with every step. What it throws cancels the text and comes out of here.
    template <typename Take> void run(Take take)
    {
        while (const s2d_step *step = next())
            take(*step);
    }

    void cancel() noexcept { s2d_request_cancel(handle.get()); }

    s2d_stats stats() const
    {
        s2d_stats made;
        check(s2d_request_stats(handle.get(), &made, sizeof made));
        return made;
    }

private:
    struct Free { void operator()(s2d_request *request) const { s2d_request_free(request); } };
    std::unique_ptr<s2d_request, Free> handle;
};

} // namespace s2d

#endif
