/* Life cycle: settings from the environment, signals, accepting, stopping. */
#define _GNU_SOURCE
#include "testapp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { STACK_SIZE = 256 * 1024, KILLED_BY_TERM = 143, MAX_VERSION = 128 };

struct settings settings;
int stop_fd;

static long started_ms;
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t open_changed = PTHREAD_COND_INITIALIZER;
static int open_count;

static long clock_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000L + now.tv_nsec / 1000000L;
}

long now_ms(void) { return clock_ms() - started_ms; }

bool is_stopping(void) {
    struct pollfd stop = {.fd = stop_fd, .events = POLLIN};
    return poll(&stop, 1, 0) > 0;
}

void sleep_until(long at_ms) {
    long left;
    while ((left = at_ms - now_ms()) > 0) {
        struct timespec pause = {.tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000L};
        nanosleep(&pause, NULL);
    }
}

void log_line(const char *format, ...) {
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (size < 0) return;
    if (size > (int)sizeof line - 2) size = sizeof line - 2;
    line[size] = '\n';
    /* One write per line, so that the lines of two threads do not mix; a lost log line is no reason to fail. */
    if (write(STDOUT_FILENO, line, (size_t)size + 1) < 0) return;
}

static const char *env_text(const char *name, const char *fallback) {
    const char *value = getenv(name);
    return value != NULL && *value != '\0' ? value : fallback;
}

static long env_number(const char *name, long fallback) {
    const char *value = env_text(name, NULL);
    if (value == NULL) return fallback;
    char *end = NULL;
    errno = 0;
    long number = strtol(value, &end, 10);
    if (errno != 0 || *end != '\0' || number < 0) {
        log_line("error: %s must be a whole number, not '%s'", name, value);
        exit(2);
    }
    return number;
}

static void read_settings(void) {
    const char *on_term = env_text("ON_TERM", "finish");
    if (strcmp(on_term, "finish") != 0 && strcmp(on_term, "at-once") != 0) {
        log_line("error: ON_TERM must be 'finish' or 'at-once', not '%s'", on_term);
        exit(2);
    }
    settings = (struct settings){
        .version = env_text("VERSION", "dev"),
        .host = env_text("HOST", "0.0.0.0"),
        .port = env_number("PORT", 8080),
        .finish_on_term = strcmp(on_term, "finish") == 0,
        .unhealthy = env_number("UNHEALTHY", 0) != 0,
        .log_requests = env_number("LOG", 0) != 0,
        .start_delay_ms = env_number("START_DELAY_MS", 0),
        .unhealthy_after_ms = env_number("UNHEALTHY_AFTER_MS", -1),
        .healthy_after_ms = env_number("HEALTHY_AFTER_MS", -1),
        .flap_ms = env_number("FLAP_MS", -1),
        .idle_close_ms = env_number("IDLE_CLOSE_MS", 5000),
        .exit_after_ms = env_number("EXIT_AFTER_MS", -1),
        .exit_code = env_number("EXIT_CODE", 0),
    };
    if (strlen(settings.version) > MAX_VERSION) {
        log_line("error: VERSION is longer than %d characters", MAX_VERSION);
        exit(2);
    }
    gethostname(settings.hostname, sizeof settings.hostname - 1);
}

static int listen_on_port(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)settings.port)};
    socklen_t size = sizeof address;
    int yes = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || inet_pton(AF_INET, settings.host, &address.sin_addr) != 1 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) < 0 ||
        bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 1024) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0) {
        log_line("error: cannot listen on %s:%ld: %s", settings.host, settings.port, strerror(errno));
        exit(1);
    }
    log_line("listening port=%d version=%s", ntohs(address.sin_port), settings.version);
    if (getenv("SAY")) log_line("%s", getenv("SAY"));
    return fd;
}

static void count_open(int change) {
    pthread_mutex_lock(&open_lock);
    open_count += change;
    pthread_cond_signal(&open_changed);
    pthread_mutex_unlock(&open_lock);
}

static void *run_connection(void *argument) {
    struct conn *conn = argument;
    serve_connection(conn);
    close(conn->fd);
    free(conn);
    count_open(-1);
    return NULL;
}

static void start_connection(int fd, const pthread_attr_t *attributes) {
    struct timeval stall = {.tv_sec = STALL_MS / 1000};
    int yes = 1;
    pthread_t thread;
    struct conn *conn = calloc(1, sizeof *conn);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &stall, sizeof stall);
    if (conn != NULL) {
        conn->fd = fd;
        count_open(1);
        if (pthread_create(&thread, attributes, run_connection, conn) == 0) return;
        count_open(-1);
    }
    free(conn);
    close(fd);
    log_line("error: no memory or thread for a connection");
}

static void accept_waiting(int listener, const pthread_attr_t *attributes) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0 || errno == EINTR || errno == ECONNABORTED) {
        if (fd >= 0) start_connection(fd, attributes);
    }
    if (errno == EMFILE || errno == ENFILE) sleep_until(now_ms() + 10); /* else poll would spin */
}

static void stop(int listener, const pthread_attr_t *attributes) {
    if (!settings.finish_on_term) {
        log_line("stopping at once");
        _exit(KILLED_BY_TERM);
    }
    if (listener >= 0) {
        /* Whoever the kernel has already let in is served: closing the listener would reset them. */
        accept_waiting(listener, attributes);
        close(listener);
    }
    if (eventfd_write(stop_fd, 1) < 0) _exit(1);
    log_line("stopping when the requests in flight are done");
    pthread_mutex_lock(&open_lock);
    while (open_count > 0) pthread_cond_wait(&open_changed, &open_lock);
    pthread_mutex_unlock(&open_lock);
    log_line("stopped");
    exit(0);
}

/* The time until the next thing that happens by the clock, for poll: -1 = nothing will. */
static int next_timer_ms(int listener) {
    long next = -1;
    if (listener < 0) next = settings.start_delay_ms;
    if (settings.exit_after_ms >= 0 && (next < 0 || settings.exit_after_ms < next)) next = settings.exit_after_ms;
    if (next < 0) return -1;
    long left = next - now_ms();
    return left > 0 ? (int)left : 0;
}

int main(void) {
    sigset_t signals;
    pthread_attr_t attributes;
    int listener = -1;

    started_ms = clock_ms();
    read_settings();
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    /* Blocked, a signal reaches PID 1 of a container as well (unhandled, it would be dropped there). */
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
    stop_fd = eventfd(0, EFD_CLOEXEC);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_SIZE);

    for (;;) {
        if (listener < 0 && now_ms() >= settings.start_delay_ms) listener = listen_on_port();
        struct pollfd watched[] = {{.fd = signal_fd, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
        if (poll(watched, 2, next_timer_ms(listener)) < 0 && errno != EINTR) return 1;
        if (watched[0].revents != 0) stop(listener, &attributes);
        if (settings.exit_after_ms >= 0 && now_ms() >= settings.exit_after_ms) {
            log_line("exiting by EXIT_AFTER_MS code=%ld", settings.exit_code);
            _exit((int)settings.exit_code);
        }
        if (listener >= 0 && watched[1].revents != 0) accept_waiting(listener, &attributes);
    }
}
