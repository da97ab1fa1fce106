// As stream.c, with the wrapper for C++: each target's text in a thread of its own, lines as they are finished.
//
//   stream DRAFT TARGET TARGET PROMPT [TEMPERATURE SEED]
#include <s2d.hpp>

#include <cstdlib>
#include <exception>
#include <iostream>
#include <mutex>
#include <string>
#include <thread>

static std::mutex output;

static void print_line(const std::string &name, const std::string &line)
{
    std::lock_guard<std::mutex> held(output);
    std::cout << name << " | " << line << std::endl;
}

static void stream(const s2d::Target &target, const std::string &prompt, const s2d_options &options)
{
    const std::string name = target.facts().name;
    try {
        s2d::Request request(target, prompt, options);
        std::string line = prompt;
        request.run([&](const s2d_step &step) {
            line.append(step.text, step.text_length);
            for (std::size_t end; (end = line.find('\n')) != std::string::npos; line.erase(0, end + 1))
                print_line(name, line.substr(0, end));
        });
        print_line(name, line);
        const s2d_stats stats = request.stats();
        print_line(name, "-- " + std::to_string(stats.new_tokens) + " tokens in " + std::to_string(stats.steps) +
                             " steps, " + std::to_string(stats.accepted_tokens) + " drafted" +
                             (stats.exact ? ", exact" : ""));
    } catch (const s2d::Error &error) {
        print_line(name, std::string("error: ") + error.what());
    }
}

int main(int argc, char **argv)
{
    if (argc != 5 && argc != 7) {
        std::cerr << "usage: stream DRAFT TARGET TARGET PROMPT [TEMPERATURE SEED]\n";
        return 2;
    }
    try {
        s2d::Library library;
        s2d::Draft draft(argv[1]);
        s2d::Target first(argv[2], &draft), second(argv[3], &draft);
        s2d_options options = s2d::options();
        options.max_new_tokens = 64;
        if (argc == 7) {
            options.temperature = std::atof(argv[5]);
            options.has_seed = 1;
            options.seed = std::strtoull(argv[6], nullptr, 10);
        }
        std::thread other([&] { stream(second, argv[4], options); });
        stream(first, argv[4], options);
        other.join();
    } catch (const std::exception &error) {
        std::cerr << "stream: " << error.what() << "\n";
        return EXIT_FAILURE;
    }
}
